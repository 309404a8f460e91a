-- Keep in the record of a running job what its attempts leave to the next one.
--
-- KEYS  1 job:{id}:state
-- ARGV  1 owner   2 progress, JSON
-- reply 1 saved; 0 this attempt does not have the job any more

local r = try('HMGET', KEYS[1], 'owner', 'status')
if r[1] ~= ARGV[1] or r[2] ~= 'running' then
  return 0
end
redis.call('HSET', KEYS[1], 'progress', ARGV[2])
return 1
