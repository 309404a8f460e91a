-- Delete a token that the upstream has refused, unless a newer one has replaced it. If the token was
-- fresh, logins and refusals could follow each other without end. So a pause begins, as after a
-- failed login, and no worker logs in before its end.
--
-- KEYS  1 token   2 failed logins   3 tokens refused while fresh, in a row (string: count)
-- ARGV  1 gen that was refused   2 a token is fresh for so long, ms   3 error JSON
--       4.. pause after the 1st, 2nd, ... in a row, ms; the last one for all that follow
-- reply the pause, ms; 0 if none begins, or if the token is deleted or replaced already

if redis.call('TYPE', KEYS[1])['ok'] ~= 'hash' or redis.call('HGET', KEYS[1], 'gen') ~= ARGV[1] then
  return 0
end
local now = now_ms()
local age_ms = now - whole(redis.call('HGET', KEYS[1], 'at_ms'), 0)
redis.call('DEL', KEYS[1])
if age_ms > tonumber(ARGV[2]) then
  redis.call('DEL', KEYS[3])
  return 0
end
-- Not INCR: the key may hold anything.
local count = math.min(whole(try('GET', KEYS[3]), 0), #ARGV) + 1
redis.call('SET', KEYS[3], count)
local pause_ms = tonumber(ARGV[math.min(3 + count, #ARGV)])
redis.call('PEXPIRE', KEYS[3], pause_ms + 2 * ARGV[2])
if pause_ms > 0 then
  heal('HSET', KEYS[2], 'count', 1, 'retry_at_ms', now + pause_ms, 'error', ARGV[3])
  redis.call('PEXPIRE', KEYS[2], pause_ms)
end
return pause_ms
