-- Take back a strike of a running job: it has survived its last chance, so it was not the
-- one that killed its worker. Sent again after a lost reply it changes nothing.
--
-- KEYS  1 job:{id}:state
-- ARGV  1 attempt   2 strikes that are left
-- reply 1 taken back; 0 it is not this attempt's any more

local r = try('HMGET', KEYS[1], 'attempt', 'status')
if r[1] ~= ARGV[1] or r[2] ~= 'running' then
  return 0
end
redis.call('HSET', KEYS[1], 'strikes', ARGV[2])
return 1
