-- Stands before every script. All times are Redis' own: workers' clocks may differ.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local OVER = {completed = true, failed = true, cancelled = true}

-- The longest time, s, for which a key is kept that somebody has written without a TTL.
local LONGEST_S = 604800

-- A score in worker:due that lies further ahead was not written by our scripts: such a job is due now.
local DAY_MS = 86400000

-- The whole number that a field holds, or `otherwise`: others may write records, too. Numbers from
-- 1e13 on (a time in ms is below) are refused: Lua would write them with an exponent.
local function whole(text, otherwise)
  local n = text and tonumber(text)
  if n and n >= 0 and n < 1e13 and n == math.floor(n) then
    return n
  end
  return otherwise
end

-- Whether a reply is an error that will come again however often the command is sent: the key
-- holds another type, or (XADD) entries that leave no room for this one.
local function hopeless(reply)
  if type(reply) ~= 'table' or not reply.err then
    return false
  end
  local text = tostring(reply.err)
  return text:find('WRONGTYPE', 1, true) or text:find('ERR The ', 1, true)
end

-- Run a command. The second value is true, and the reply empty, if a key holds another type.
local function try(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then
    return reply, false
  end
  if hopeless(reply) then
    return {}, true
  end
  return redis.call(...)  -- raises the error: a full server, a missing right
end

-- Run a command on a key that only our scripts write; a value of another type is removed first.
local function heal(command, key, ...)
  local reply, wrong = try(command, key, ...)
  if not wrong then
    return reply
  end
  redis.call('DEL', key)
  return redis.call(command, key, ...)
end

-- Let a key live for at least this many seconds more.
local function keep(key, ttl_s)
  if redis.call('TTL', key) < tonumber(ttl_s) then
    redis.call('EXPIRE', key, ttl_s)
  end
end

-- Add a job to the index of the newest jobs, which holds at most 10,000.
local function index(key, id, created, ttl_s)
  heal('ZADD', key, created, id)
  redis.call('ZREMRANGEBYRANK', key, 0, -10001)
  keep(key, ttl_s)
end

