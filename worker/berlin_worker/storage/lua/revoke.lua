-- Note in the record of a job that Celery has revoked it: the next claim ends it as cancelled,
-- whichever worker makes it. A job that runs is left alone, unless it shall be terminated.
--
-- KEYS  1 job:{id}:state
-- ARGV  1 TTL, s, of a record that holds nothing else   2 '1' to cancel a job that runs, too
-- reply 1 noted; 2 noted, and the job waits by its record; 0 it runs, or is over

local status = heal('HMGET', KEYS[1], 'status')[1]
if OVER[status] or (status == 'running' and ARGV[2] ~= '1') then
  return 0
end
redis.call('HSET', KEYS[1], 'cancel', 1, 'revoked', 1)  -- the second: see submit, claim
if redis.call('TTL', KEYS[1]) < 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return status and status ~= 'running' and 2 or 1
