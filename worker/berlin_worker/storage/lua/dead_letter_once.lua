-- Add to the dead letters what could not be run, once: a call whose reply was lost, or whose
-- caller has died before it could say that it is done, is made again.
--
-- KEYS  1 worker:dead   2 a key of the call's own, which notes that the entry is there
-- ARGV  1 TTL of the note, s   2 length to which the dead letters are trimmed
--       3... fields and values of the entry, beside its time
-- reply 1 added; 0 it was there already

if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
add_dead_letter(KEYS[1], ARGV[2], unpack(ARGV, 3))
redis.call('SET', KEYS[2], 1, 'EX', ARGV[1])
return 1
