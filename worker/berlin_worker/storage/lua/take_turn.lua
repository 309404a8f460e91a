-- Take the turn of the one worker that looks for due jobs, unless another has it.
--
-- KEYS  1 worker:due:turn
-- ARGV  1 for how long, ms
-- reply 1 taken; 0 another has it

local left = redis.call('PTTL', KEYS[1])
if left == -1 or left > 60000 then
  redis.call('DEL', KEYS[1])  -- no worker takes a turn of that length
end
return redis.call('SET', KEYS[1], '', 'NX', 'PX', ARGV[1]) and 1 or 0
