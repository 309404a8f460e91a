-- Prepended to every script. All times are those of the server: workers' clocks may differ.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local OVER = {completed = true, failed = true, cancelled = true}

-- The TTL, s, of a key that another client has written without one.
local LONGEST_S = 604800

-- No script of ours writes a lease that lies further ahead: such a job is due now.
local DAY_MS = 86400000

-- Return the whole number in a field, or `otherwise`: other clients may write records, too. Numbers
-- of 1e13 or more (a time in ms is less) are refused: Lua would write them with an exponent.
local function whole(text, otherwise)
  local n = text and tonumber(text)
  if n and n >= 0 and n < 1e13 and n == math.floor(n) then
    return n
  end
  return otherwise
end

-- Return whether a reply is an error that every repetition of the command would get: the key has
-- another type, or (XADD) entries with greater IDs.
local function hopeless(reply)
  if type(reply) ~= 'table' or not reply.err then
    return false
  end
  local text = tostring(reply.err)
  return text:find('WRONGTYPE', 1, true) or text:find('ERR The ', 1, true)
end

-- Run a command. If a key has another type, the reply is empty and the second value is true.
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

-- Run a command on a key that only our scripts write; remove a value of another type first.
local function heal(command, key, ...)
  local reply, wrong = try(command, key, ...)
  if not wrong then
    return reply
  end
  redis.call('DEL', key)
  return redis.call(command, key, ...)
end

-- Extend the TTL of a key to at least this many seconds.
local function keep(key, ttl_s)
  if redis.call('TTL', key) < tonumber(ttl_s) then
    redis.call('EXPIRE', key, ttl_s)
  end
end

