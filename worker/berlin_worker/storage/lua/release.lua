-- Hand a running job back, at a shutdown: the next claim gets it at once, and no failed
-- attempt is counted.
--
-- KEYS  1 job:{id}:state   2 worker:due
-- ARGV  1 job ID   2 attempt   3 look at it again after, ms
-- reply 1 handed back; 0 it was not this attempt's any more

local r = try('HMGET', KEYS[1], 'attempt', 'status')
if r[1] ~= ARGV[2] or r[2] ~= 'running' then
  return 0
end
redis.call('HSET', KEYS[1], 'status', 'queued')
redis.call('HDEL', KEYS[1], 'owner')
heal('ZADD', KEYS[2], now_ms() + ARGV[3], ARGV[1])
keep(KEYS[2], redis.call('TTL', KEYS[1]))
return 1
