-- Record a failed login, so that no worker logs in before the back-off is over, and free the lock.
-- Refused unless the owner still holds the lock: another login may have succeeded meanwhile.
--
-- KEYS  1 lock   2 failed logins
-- ARGV  1 owner   2 failures in a row, this one included   3 back-off, ms   4 error JSON
--       5 ms after the back-off until the count is forgotten
-- reply 1 recorded; 0 the lock was lost, nothing changed

if try('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
heal('HSET', KEYS[2], 'count', ARGV[2], 'retry_at_ms', now_ms() + ARGV[3], 'error', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[3] + ARGV[5])
return 1
