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

