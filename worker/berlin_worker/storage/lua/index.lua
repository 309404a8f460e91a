-- Change sorted sets of job IDs by time: partitions of the index of jobs to look at, or the index
-- of the newest jobs. They are advisory: the records of the jobs are the truth.
--
-- KEYS  the sorted sets; on a cluster one
-- ARGV  1 TTL of the keys, s, at least   2 'LT' to never raise a time, 'NX' to change none, or ''
--       3 most entries of a key, the oldest go ('' for no limit)
--       then for each key: number of entries, then for each entry: time from now, ms ('' to
--       remove the entry), job ID
-- reply 1

local now, at = now_ms(), 4
local delay, time  -- most entries of a call have one delay: a number is converted once
for _, key in ipairs(KEYS) do
  local add, remove = {}, {}
  for n = at + 1, at + 2 * ARGV[at], 2 do
    if ARGV[n] == '' then
      remove[#remove + 1] = ARGV[n + 1]
    else
      if ARGV[n] ~= delay then
        delay, time = ARGV[n], string.format('%.0f', now + ARGV[n])
      end
      add[#add + 1] = time
      add[#add + 1] = ARGV[n + 1]
    end
  end
  at = at + 1 + 2 * ARGV[at]
  if #remove > 0 then
    heal('ZREM', key, unpack(remove))
  end
  if #add > 0 then
    if ARGV[2] == '' then
      heal('ZADD', key, unpack(add))
    else
      heal('ZADD', key, ARGV[2], unpack(add))
    end
    if ARGV[3] ~= '' then
      redis.call('ZREMRANGEBYRANK', key, 0, -1 - ARGV[3])
    end
    keep(key, ARGV[1])
  end
end
return 1
