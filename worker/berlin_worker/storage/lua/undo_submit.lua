-- Undo a submission whose message could not be enqueued, unless a worker has the job
-- already, or somebody else has submitted it too. The broker may have taken the message all the same, so the job is left marked
-- as cancelled: whoever claims it ends it without going upstream. Submitting it again
-- lifts the mark.
--
-- KEYS  1 job:{id}:state   2 worker:due   3 worker:jobs
-- ARGV  1 job ID   2 TTL of the mark, s
-- reply 1 withdrawn, or the record was lost; 0 a worker has the job, or has had it;
--       2 it waits, for somebody else as well

-- No more is asked than what there is: a producer need not have the right to read records.
if redis.call('HEXISTS', KEYS[1], 'attempt') == 1 then
  return 0
end
if redis.call('HEXISTS', KEYS[1], 'shared') == 1 then
  return 2
end
redis.call('DEL', KEYS[1])
heal('ZREM', KEYS[2], ARGV[1])
heal('ZREM', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[1], 'cancel', 1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
