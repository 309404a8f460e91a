-- Stands before the scripts of the queue. An entry of `unacked` is a message and the list that it
-- came from: "<bytes of the list's name>:<list><message>". The message is never looked into.

local function make_entry(list, raw)
  return #list .. ':' .. list .. raw
end

-- The list and the message; of what is no such entry no list, and all of it as the message.
local function read_entry(entry)
  local digits, start = entry:match('^(%d+):()')
  local size = tonumber(digits)
  if not size or size == 0 or size > 1024 or start + size > #entry + 1 then
    return nil, entry
  end
  return entry:sub(start, start + size - 1), entry:sub(start + size)
end

-- Put the message of a tag on its list again by `push` (RPUSH: it is the next to be served; LPUSH:
-- the last), or on `otherwise` if it has no list or that takes none. Return an error if neither
-- takes it: then it stays. A tag without an entry is dropped.
local function give_back(tag, push, otherwise)
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
  end
  redis.call('ZREM', KEYS[2], tag)
  return nil
end
