-- Return which records are of jobs that wait or run. Any other record without a TTL, which another
-- client has written, gets one.
--
-- KEYS  job:{id}:state of each job; on a cluster those of one slot
-- reply for each job: 1 it waits or runs, or has a status that no job has; 2 it runs by a record
--       without a lease (of an older version); 0 neither

local replies = {}
for n, key in ipairs(KEYS) do
  local r = try('HMGET', key, 'status', 'lease_ms')
  if r[1] and not OVER[r[1]] then
    replies[n] = r[1] == 'running' and not r[2] and 2 or 1
  else
    replies[n] = 0
    if redis.call('TTL', key) == -1 then
      redis.call('EXPIRE', key, LONGEST_S)
    end
  end
end
return replies
