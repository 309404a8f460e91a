-- Undo a submission whose message could not be enqueued, unless a worker has claimed the job, or
-- another client has submitted it, too. The broker may have the message nevertheless, so the job
-- keeps a cancel flag: a worker that claims it ends it without a call of the upstream. A new
-- submission removes the flag.
--
-- KEYS  1 job:{id}:state
-- ARGV  1 TTL of the flag, s
-- reply 1 undone, or the record was lost; 0 a worker has, or had, the job;
--       2 the job waits, since another client has submitted it, too

-- HEXISTS, not HGET: an ACL may deny producers to read records.
if redis.call('HEXISTS', KEYS[1], 'attempt') == 1 then
  return 0
end
if redis.call('HEXISTS', KEYS[1], 'co_submitted') == 1 then
  return 2
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'cancel', 1)
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
