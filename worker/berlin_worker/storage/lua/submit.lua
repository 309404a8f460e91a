-- Write the record of a job before its message is enqueued, so that workers find an accepted job
-- even if the queue loses its message.
--
-- KEYS  1 job:{id}:state   2 worker:due   3 worker:jobs
-- ARGV  1 job ID   2 job object, JSON   3 TTL of the record, s   4 look at it again after, ms
--       5 headers by which a message of the job continues its trace, JSON ('' for none)
--       6 fingerprint of the job object ('' if it is not known)
--       7... further fields of the record and their values
-- reply 1 written; otherwise a record exists:
--       2 the job waits and has never run (its message may be lost: send it again, since a worker
--       drops the second of two); 0 the job runs, or is finished;
--       3 the record is that of another job, with another fingerprint

-- HEXISTS, not HGET: an ACL may deny producers to read records. So the fingerprint is the name of
-- a field, too. A record of an older version has no fingerprint, and is not compared.
-- A job that has run has the field `attempt`; one without it waits.
local mine = 'fingerprint:' .. (ARGV[6] or '')
if redis.call('HEXISTS', KEYS[1], 'status') == 1 then
  if mine ~= 'fingerprint:' and redis.call('HEXISTS', KEYS[1], 'fingerprint') == 1
      and redis.call('HEXISTS', KEYS[1], mine) == 0 then
    return 3
  end
  if redis.call('HEXISTS', KEYS[1], 'attempt') == 1 then
    return 0
  end
  redis.call('HSET', KEYS[1], 'co_submitted', 1)  -- its first submitter may not undo it
  return 2
end
local now = now_ms()
-- A server without memory refuses this first write; after a write it would allow the others.
redis.call('HSET', KEYS[1], 'status', 'queued', 'job', ARGV[2], 'created_ms', now)
if ARGV[5] and ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'trace', ARGV[5])
end
if mine ~= 'fingerprint:' then
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[6], mine, 1, unpack(ARGV, 7))
end
-- An undone job may be submitted again; one that Celery has revoked stays revoked, as in Celery.
if redis.call('HEXISTS', KEYS[1], 'revoked') == 0 then
  redis.call('HDEL', KEYS[1], 'cancel')
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
heal('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
keep(KEYS[2], ARGV[3])
index(KEYS[3], ARGV[1], now, ARGV[3])
return 1
