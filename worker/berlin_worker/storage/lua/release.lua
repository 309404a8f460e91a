-- Release a running job, at a shutdown or while it waits in quarantine: the next claim gets it at
-- once, and no failed attempt is counted.
--
-- KEYS  1 job:{id}:state
-- ARGV  1 owner   2 look at it again after, ms
-- reply 1 released; 0 this attempt does not have the job any more

local r = try('HMGET', KEYS[1], 'owner', 'status')
if r[1] ~= ARGV[1] or r[2] ~= 'running' then
  return 0
end
redis.call('HSET', KEYS[1], 'status', 'queued', 'lease_ms', now_ms() + ARGV[2])
redis.call('HDEL', KEYS[1], 'owner', 'first_lease_ms')
return 1
