-- Write the status of a worker. If it is not renewed within the TTL, the status expires by itself,
-- and the next heartbeat of another worker removes the worker from the fleet.
--
-- KEYS  1 worker:alive:<worker>   2 worker:fleet (sorted set: worker, when it counts as gone, ms)
-- ARGV  1 worker   2 status, JSON   3 TTL, ms
-- reply 1

local now = now_ms()
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
heal('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  redis.call('ZREM', KEYS[2], gone)
end
keep(KEYS[2], math.ceil(ARGV[3] / 1000))
return 1
