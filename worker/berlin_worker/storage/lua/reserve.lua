-- Move messages from the lists of a queue to a consumer, in one step. kombu removes a message from
-- its list first and notes it second: a worker that is killed in between loses the message.
--
-- The script does not parse messages: only the worker does. The worker chooses the tags.
--
-- KEYS  1 unacked (hash: tag -> entry, see unacked_entry.lua)   2 unacked_index (zset: tag -> since when, s)
--       3 redelivered (hash, see unacked_entry.lua)
--       4... the lists of the queue, in the order in which they are served
-- ARGV  1 messages to take at most   2 beginning of the tags, used for this call alone
--       3 bytes of the longest message: the cut of a longer one makes it unreadable
--       4 bytes after which no more are taken, since a worker holds the whole reply in memory
-- reply {1 if more wait, list, tag, message, 1 if a worker held it before, ...}: lists are counted
-- from 1
-- A full server, or a wrong type of key 1 or 2, is an error before anything has moved. A list of a
-- wrong type is skipped; its error is the reply if there is nothing else to take.

local since = now_ms() / 1000
-- A full server would allow RPOP, and refuse what follows. This command changes nothing, and a full
-- server refuses it.
redis.call('ZADD', KEYS[2], 'XX', since, '')
redis.call('HLEN', KEYS[1])

local marked = redis.pcall('HLEN', KEYS[3])
local any_marked = type(marked) == 'number' and marked > 0

local reply, room, most_bytes, failure = {0}, tonumber(ARGV[1]), tonumber(ARGV[3]), nil
local bytes, enough_bytes = 0, tonumber(ARGV[4])
for list = 4, #KEYS do
  while room > 0 do
    local raw = redis.pcall('RPOP', KEYS[list])
    if type(raw) == 'table' then
      failure = raw
    end
    if type(raw) ~= 'string' then
      break
    end
    room = room - 1
    bytes = bytes + math.min(#raw, most_bytes)
    local tag = ARGV[2] .. ('%03d'):format((#reply - 1) / 4) -- in order even if times are equal
    redis.call('HSET', KEYS[1], tag, make_entry(KEYS[list], raw))
    redis.call('ZADD', KEYS[2], since, tag)
    reply[#reply + 1] = list - 3
    reply[#reply + 1] = tag
    reply[#reply + 1] = raw:sub(1, most_bytes)
    reply[#reply + 1] = any_marked and redis.call('HDEL', KEYS[3], fingerprint(raw)) or 0
    if bytes >= enough_bytes then
      room = 0
    end
  end
  if room == 0 then
    local left = redis.pcall('LLEN', KEYS[list])
    if type(left) == 'number' and left > 0 then
      reply[1] = 1
    end
  end
end
if failure and #reply == 1 then
  return failure
end
return reply
