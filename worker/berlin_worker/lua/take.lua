-- Move messages from a job queue into the hands of a consumer, in one step: where kombu
-- pops first and writes down after, a worker killed in between takes the message with it.
--
-- What kombu could not read, or could not give back, goes to the dead letters instead.
--
-- KEYS  1 unacked (hash: tag -> [message, exchange, routing key])   2 unacked_index (zset)
--       3 worker:dead   4... the lists of the queue, in the order in which they are served
-- ARGV  1 messages to take at most   2 time now, s (the consumer's: so kombu counts)
--       3 length to which the dead letters are trimmed
-- reply {1 if there is more, list, message, list, message, ...}: lists are counted from 1;
--       list 0: a message is buried, and this is the job ID that it bears, if any: tell its reader;
--       list -1: the same of one that is no JSON for Redis, and this is the message
-- A full server refuses it before anything has moved.

-- What kombu needs of a message, or nothing, and the job ID that it bears; no ID where it is no
-- JSON for Redis, which refuses half a surrogate pair. Protocol 1 can do without headers.
local function envelope(raw)
  local ok, message = pcall(cjson.decode, raw)
  if not ok or type(message) ~= 'table' then
    return nil, nil
  end
  local properties, headers = message.properties, message.headers
  local delivery = type(properties) == 'table' and properties.delivery_info
  local id = type(headers) == 'table' and headers.id
  id = type(id) == 'string' and #id <= 128 and id:match('^[%w_-]+$') or ''
  if type(delivery) ~= 'table' or type(properties.delivery_tag) ~= 'string'
      or type(delivery.exchange) ~= 'string' or type(delivery.routing_key) ~= 'string'
      or (headers ~= nil and type(headers) ~= 'table') or type(message.body) ~= 'string' then
    return nil, id
  end
  return properties, id
end

-- RPOP alone a full server would allow; this changes nothing, and is refused.
redis.call('ZADD', KEYS[2], 'XX', ARGV[2], '')

local MOST_BYTES = 4 * 1024 * 1024
local reply = {0}
local room = tonumber(ARGV[1])
for list = 4, #KEYS do
  while room > 0 do
    local raw = redis.call('RPOP', KEYS[list])
    if not raw then
      break
    end
    room = room - 1
    local properties, id = envelope(raw)
    if properties then
      local delivery, tag = properties.delivery_info, properties.delivery_tag
      redis.call('HSET', KEYS[1], tag, '[' .. raw .. ',' .. cjson.encode(delivery.exchange) .. ','
                 .. cjson.encode(delivery.routing_key) .. ']')
      redis.call('ZADD', KEYS[2], ARGV[2], tag)
      reply[#reply + 1] = list - 3
      reply[#reply + 1] = raw
    else
      redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'job_id', id or '', 'reason',
                 'not_a_message', 'message', raw, 'ts', now_ms() / 1000)
      reply[#reply + 1] = id and 0 or -1
      reply[#reply + 1] = id or raw:sub(1, MOST_BYTES)
    end
  end
  if room == 0 and redis.call('LLEN', KEYS[list]) > 0 then
    reply[1] = 1
  end
end
return reply
