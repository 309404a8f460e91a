-- Give messages that this worker holds back to the lists that they came from, as they are.
--
-- KEYS  1 unacked   2 unacked_index   3 the list for a message whose own list takes none
--       4 redelivered (hash, see unacked_entry.lua)
-- ARGV  1 RPUSH: each is the next to be served, the last one first; LPUSH: behind all others
--       2... tags; a tag that is not held any more is skipped
-- reply OK, or the error of the first that no list takes: it stays held, and those after it

for n = 2, #ARGV do
  local failure = give_back(ARGV[n], ARGV[1], KEYS[3], KEYS[4])
  if failure then
    return failure
  end
end
return redis.status_reply('OK')
