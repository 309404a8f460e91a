-- Lower the count of failed attempts of a running job: it has survived its final attempt, so it
-- was not the job that killed its worker. Sent again after a lost reply it changes nothing.
--
-- KEYS  1 job:{id}:state
-- ARGV  1 attempt   2 failed attempts that still count
-- reply 1 lowered; 0 another attempt has the job

local r = try('HMGET', KEYS[1], 'attempt', 'status')
if r[1] ~= ARGV[1] or r[2] ~= 'running' then
  return 0
end
redis.call('HSET', KEYS[1], 'failed_attempts', ARGV[2])
return 1
