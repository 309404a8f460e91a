-- Share the token of a successful login, delete the record of failures, free the lock.
-- Refused unless the owner still holds the lock, so a slow login never replaces a newer token.
--
-- KEYS  1 token   2 lock   3 failed logins
-- ARGV  1 owner   2 gen   3 field of the token   4 token   5 TTL of the token, s
-- reply 1 shared; 0 the lock was lost, nothing changed

if try('GET', KEYS[2]) ~= ARGV[1] then
  -- A retry of a call whose reply was lost finds its own token.
  local mine = redis.call('TYPE', KEYS[1])['ok'] == 'hash'
    and redis.call('HGET', KEYS[1], 'gen') == ARGV[2]
  return mine and 1 or 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'gen', ARGV[2], 'at_ms', now_ms(), ARGV[3], ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
