-- Prepended to the scripts of the queue. An entry of `unacked` is a message and the list that it
-- came from: "<bytes of the list's name>:<list><message>". No script parses the message.

local function make_entry(list, raw)
  return #list .. ':' .. list .. raw
end

-- Return list and message. For a value that is no such entry return nil, and all of it as message.
local function read_entry(entry)
  local digits, start = entry:match('^(%d+):()')
  local size = tonumber(digits)
  if not size or size == 0 or size > 1024 or start + size > #entry + 1 then
    return nil, entry
  end
  return entry:sub(start, start + size - 1), entry:sub(start + size)
end

-- Messages on the lists that a worker held before are listed in a hash beside them, since a message
-- goes back byte for byte. An entry may get lost: then the message counts as delivered once.
local MOST_REDELIVERED = 10000
local REDELIVERED_TTL_S = 86400

-- Return a name for a message, at a bounded cost: the end of a message holds its delivery tag.
-- fakeredis has no sha1hex.
local function fingerprint(raw)
  local ending = #raw .. ':' .. raw:sub(-4096)
  return redis.sha1hex and redis.sha1hex(ending) or ending
end

local function mark_redelivered(key, raw)
  local marked = redis.pcall('HLEN', key)
  if type(marked) == 'number' and marked < MOST_REDELIVERED then
    redis.pcall('HSET', key, fingerprint(raw), 1)
    redis.pcall('EXPIRE', key, REDELIVERED_TTL_S)
  end
end

-- Put the message of a tag on its list again by `push` (RPUSH: it is the next to be served; LPUSH:
-- the last), or on `otherwise` if it has no list, or its list takes no message; add it to
-- `redelivered`. Return an error if neither list takes it: then it stays held. A tag without an
-- entry is dropped.
local function give_back(tag, push, otherwise, redelivered)
  local entry = redis.call('HGET', KEYS[1], tag)
  if entry then
    local list, raw = read_entry(entry)
    local pushed = list and redis.pcall(push, list, raw)
    if type(pushed) ~= 'number' then
      pushed = redis.pcall(push, otherwise, raw)
    end
    if type(pushed) ~= 'number' then
      return pushed
    end
    redis.call('HDEL', KEYS[1], tag)
    mark_redelivered(redelivered, raw)
  end
  redis.call('ZREM', KEYS[2], tag)
  return nil
end
