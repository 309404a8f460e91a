-- Add an entry to the dead letters, once: the call is repeated if its reply was lost, or if its
-- caller died before it had acknowledged the message.
--
-- KEYS  1 worker:dead   2 marker of this call, named by its hash
-- ARGV  1 TTL of the marker, s   2 length to which the dead letters are trimmed
--       3... fields and values of the entry, beside its time
-- reply 1 added; 0 an earlier call has added it

if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
add_dead_letter(KEYS[1], ARGV[2], unpack(ARGV, 3))
redis.call('SET', KEYS[2], 1, 'EX', ARGV[1])
return 1
