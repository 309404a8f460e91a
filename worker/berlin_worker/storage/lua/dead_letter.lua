-- Move a message that this worker holds, and cannot parse, to the dead letters.
--
-- KEYS  1 unacked   2 unacked_index   3 worker:dead
-- ARGV  1 tag   2 length to which the dead letters are trimmed   3 job ID or ''   4 reason
-- reply 1 moved; 0 the message is no longer held

local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry then
  return 0
end
local _, raw = read_entry(entry)
add_dead_letter(KEYS[3], ARGV[2], 'job_id', ARGV[3], 'reason', ARGV[4], 'message', raw)
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
