-- Stands before every script. All times are Redis' own: workers' clocks may differ.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local OVER = {completed = true, failed = true, cancelled = true}

-- Let a key live for at least this many seconds more.
local function keep(key, ttl_s)
  if redis.call('TTL', key) < tonumber(ttl_s) then
    redis.call('EXPIRE', key, ttl_s)
  end
end

-- Add a job to the index of the newest jobs, which holds at most 10,000.
local function index(key, id, created, ttl_s)
  redis.call('ZADD', key, created, id)
  redis.call('ZREMRANGEBYRANK', key, 0, -10001)
  keep(key, ttl_s)
end

