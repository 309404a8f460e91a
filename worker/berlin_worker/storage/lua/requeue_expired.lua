-- Return the messages that no worker has renewed in time to their lists. Mend entries that no worker
-- has written.
--
-- KEYS  1 unacked   2 unacked_index   3 the list for a message whose own list takes none
--       4 redelivered (hash, see unacked_entry.lua)   5... the lists of the queue
-- ARGV  1 seconds after which a message goes back   2 messages to look at, at most
--       3 1 to look for entries without an index, however many there are of both
-- reply {1 if more are due, error or '', keys of a wrong type that were deleted...}

local most = tonumber(ARGV[2])
local reply = {0, ''}

local kinds = {[KEYS[1]] = 'hash', [KEYS[2]] = 'zset', [KEYS[4]] = 'hash'}
for n = 5, #KEYS do
  kinds[KEYS[n]] = 'list'
end
for key, kind in pairs(kinds) do
  if delete_unless(key, kind) then
    reply[#reply + 1] = key
  end
end

local now = now_ms() / 1000
-- A worker writes no time that is still to come; a server that was promoted may be behind.
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now + 1, '+inf', 'LIMIT', 0, most)) do
  redis.call('ZADD', KEYS[2], now, tag)
end
if ARGV[3] == '1' or redis.call('HLEN', KEYS[1]) > redis.call('ZCARD', KEYS[2]) then
  for _, tag in ipairs(redis.call('HKEYS', KEYS[1])) do
    redis.call('ZADD', KEYS[2], 'NX', now, tag)
  end
end

-- The newest first: the last one to go back is the first to be served.
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[1], 'LIMIT', 0, most + 1)
if #due > most then
  reply[1] = 1
end
for n = math.min(#due, most), 1, -1 do
  local failure = give_back(due[n], 'RPUSH', KEYS[3], KEYS[4])
  if failure then
    reply[1], reply[2] = 0, failure.err
  end
end
return reply
