-- Shared by claim.lua and reap.lua. Return the failed attempts of a job after one more, from the field
-- of the record. A failed attempt was lost with its worker, or given up for a retry. One that was
-- released at a shutdown does not count.
local function count_failed(field)
  return whole(field, 0) + 1
end

-- Return for how long, ms, a lost attempt is known to have run: its worker renewed its lease
-- that long after the claim.
local function known_to_run_ms(lease, first_lease)
  local first = whole(first_lease, 0)
  return first > 0 and math.max(whole(lease, 0) - first, 0) or 0
end
