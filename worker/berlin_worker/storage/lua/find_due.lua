-- Return members of the index of jobs to look at whose time has come. A score more than a day
-- ahead was written by no script of ours: its member is due, too. A key of another type is removed.
--
-- KEYS  partitions of the index; on a cluster one
-- ARGV  1 return at most so many
-- reply {members, number of keys of another type that were removed}

local now, found, removed = now_ms(), {}, 0
for _, key in ipairs(KEYS) do
  for _, range in ipairs({{'-inf', now}, {now + DAY_MS, '+inf'}}) do
    if #found < tonumber(ARGV[1]) then
      local members, wrong = try('ZRANGEBYSCORE', key, range[1], range[2], 'LIMIT', 0, ARGV[1] - #found)
      if wrong then
        redis.call('DEL', key)
        removed = removed + 1
      end
      for _, member in ipairs(members) do
        found[#found + 1] = member
      end
    end
  end
end
return {found, removed}
