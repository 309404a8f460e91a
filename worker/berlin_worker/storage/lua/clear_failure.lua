-- Lower the count of failed attempts of a running job: it has survived its final attempt, so it
-- was not the job that killed its worker. Sent again after a lost reply it changes nothing.
--
-- KEYS  1 job:{id}:state
-- ARGV  1 owner   2 failed attempts that still count   3 how often a job may be cleared
-- reply 1 lowered; 0 another attempt has the job, or it has been cleared that often

local r = try('HMGET', KEYS[1], 'owner', 'status', 'failed_attempts', 'cleared')
if r[1] ~= ARGV[1] or r[2] ~= 'running' then
  return 0
end
if r[3] == ARGV[2] then
  return 1
end
local cleared = whole(r[4], 0)
if cleared >= tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[1], 'failed_attempts', ARGV[2], 'cleared', cleared + 1)
return 1
