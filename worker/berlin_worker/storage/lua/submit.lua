-- Write the record of a job before its message is enqueued, so that a job that was
-- accepted is found again even if its message falls out of the queue.
--
-- KEYS  1 job:{id}:state   2 worker:due   3 worker:jobs
-- ARGV  1 job ID   2 job object, JSON   3 TTL of the record, s   4 look at it again after, ms
--       5 headers by which a message of the job continues its trace, JSON ('' for none)
--       6 fingerprint of the job object ('' if it is not known)
--       7... further fields of the record and their values
-- reply 1 written; otherwise there is a record already:
--       2 the job waits and was never begun (its message may be missing: send it again,
--       of two a worker drops the second); 0 it is at work or over;
--       3 it is the record of another job: one with another fingerprint

-- HEXISTS and no HGET: a producer need not have the right to read records. So the fingerprint
-- stands in the name of a field too. A record of an older version has none, and is not compared.
-- A job that was begun has an attempt; one that has none waits.
local mine = 'fingerprint:' .. (ARGV[6] or '')
if redis.call('HEXISTS', KEYS[1], 'status') == 1 then
  if mine ~= 'fingerprint:' and redis.call('HEXISTS', KEYS[1], 'fingerprint') == 1
      and redis.call('HEXISTS', KEYS[1], mine) == 0 then
    return 3
  end
  if redis.call('HEXISTS', KEYS[1], 'attempt') == 1 then
    return 0
  end
  redis.call('HSET', KEYS[1], 'shared', 1)  -- not its writer's alone, who may not withdraw it
  return 2
end
local now = now_ms()
-- First what a server without memory refuses: after a write it would let the rest pass.
redis.call('HSET', KEYS[1], 'status', 'queued', 'job', ARGV[2], 'created_ms', now)
if ARGV[5] and ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'trace', ARGV[5])
end
if mine ~= 'fingerprint:' then
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[6], mine, 1, unpack(ARGV, 7))
end
-- What was withdrawn may be submitted again; what Celery has revoked stays revoked, as in Celery.
if redis.call('HEXISTS', KEYS[1], 'revoked') == 0 then
  redis.call('HDEL', KEYS[1], 'cancel')
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
heal('ZADD', KEYS[2], now + ARGV[4], ARGV[1])
keep(KEYS[2], ARGV[3])
index(KEYS[3], ARGV[1], now, ARGV[3])
return 1
