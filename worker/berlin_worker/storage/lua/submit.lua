-- Write the record of a job before its message is enqueued, so that workers find an accepted job
-- even if the queue loses its message.
--
-- KEYS  1 job:{id}:state
-- ARGV  1 job object, JSON   2 TTL of the record, s   3 look at it again after, ms
--       4 headers by which a message of the job continues its trace, JSON ('' for none)
--       5 fingerprint of the job object ('' if it is not known)
--       6... further fields of the record and their values
-- reply 1 written; otherwise a record exists:
--       2 the job waits and has never run (its message may be lost: send it again, since a worker
--       drops the second of two); 0 the job runs, or is finished;
--       3 the record is that of another job, with another fingerprint

-- HEXISTS, not HGET: an ACL may deny producers to read records. So the fingerprint is the name of
-- a field, too. A record of an older version has no fingerprint, and is not compared.
-- A job that has run has the field `attempt`; one without it waits.
local mine = 'fingerprint:' .. (ARGV[5] or '')
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
redis.call('HSET', KEYS[1], 'status', 'queued', 'job', ARGV[1], 'created_ms', now,
           'lease_ms', now + ARGV[3])
if ARGV[4] and ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'trace', ARGV[4])
end
if mine ~= 'fingerprint:' then
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[5], mine, 1, unpack(ARGV, 6))
end
-- An undone job may be submitted again; one that Celery has revoked stays revoked, as in Celery.
if redis.call('HEXISTS', KEYS[1], 'revoked') == 0 then
  redis.call('HDEL', KEYS[1], 'cancel')
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
