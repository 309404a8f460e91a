-- Extend the visibility timeout of messages that this worker holds. An acknowledged message is
-- skipped.
--
-- KEYS  1 unacked_index
-- ARGV  tags
-- reply the server's time, s, as text

local t = redis.call('TIME')
local now = t[1] .. '.' .. ('%06d'):format(t[2])
for _, tag in ipairs(ARGV) do
  redis.call('ZADD', KEYS[1], 'XX', now, tag)
end
return now
