-- Take one job that is due in worker:due. A running one has lost its worker: it becomes
-- queued again, with one failed attempt more, and its stale worker can no longer append. One that waits is
-- taken only if the queue has passed it by: then its message is lost. A record that is no record
-- (a key of another type) counts as running, without a job object. Of several callers
-- one gets it; should that one die before it has enqueued the job, the job is due again later.
--
-- KEYS  1 job:{id}:state   2 worker:due
-- ARGV  1 job ID   2 look at it again after, ms, if it was running   3 if it was queued
--       4 what was put on the queue before this time, ms, has been passed by
-- reply {was, job, trace}: was 'running' or 'queued', the job object as JSON ('' if the record
--       has none), what the record has of a trace ('' for none); or nothing to do: nothing

local now = now_ms()
local due = tonumber(heal('ZSCORE', KEYS[2], ARGV[1]) or nil)
if not due or (due > now and due < now + DAY_MS) then
  return {}
end
local r, wrong = try('HMGET', KEYS[1], 'status', 'job', 'created_ms', 'queued_ms', 'trace')
if wrong then
  redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
  return {'running', '', ''}
end
local status = r[1]
if not status or OVER[status] then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {}
end
local again = ARGV[3]
if status == 'running' then
  again = ARGV[2]
  redis.call('HSET', KEYS[1], 'status', 'queued',
             'failed_attempts', whole(redis.call('HGET', KEYS[1], 'failed_attempts'), 0) + 1)
  redis.call('HDEL', KEYS[1], 'owner')
elseif status ~= 'queued' then
  status = 'queued'
  redis.call('HSET', KEYS[1], 'status', status)
end
redis.call('ZADD', KEYS[2], now + again, ARGV[1])
local queued = whole(r[4], whole(r[3], 0))
if status == 'queued' and queued >= tonumber(ARGV[4]) and queued <= now then
  return {}
end
redis.call('HSET', KEYS[1], 'queued_ms', now)
return {status, r[2] or '', r[5] or ''}
