-- The upstream has refused a token: delete it, unless a newer one has taken its place.
--
-- KEYS  1 token
-- ARGV  1 gen that was refused
-- reply 1 deleted; 0 it is gone already, or replaced

if redis.call('TYPE', KEYS[1])['ok'] ~= 'hash' or redis.call('HGET', KEYS[1], 'gen') ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
