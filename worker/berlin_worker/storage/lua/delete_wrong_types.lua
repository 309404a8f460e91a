-- Delete keys that have another type than the broker's client needs: no command on them can succeed.
--
-- KEYS  any     ARGV  the type of each key
-- reply {the keys that were deleted...}

local deleted = {}
for n, key in ipairs(KEYS) do
  if delete_unless(key, ARGV[n]) then
    deleted[#deleted + 1] = key
  end
end
return deleted
