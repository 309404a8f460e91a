-- Free the lock of the login, if the owner still holds it.
--
-- KEYS  1 lock
-- ARGV  1 owner
-- reply 1 freed; 0 the owner does not hold it

if try('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
