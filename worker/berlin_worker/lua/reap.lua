-- Take one job that is due in worker:watch. A running one has lost its worker: it becomes
-- queued again, with a strike, and its stale worker can no longer append. One that waits is
-- taken only if the queue has passed it by: then its message is lost. Of several callers
-- one gets it; should that one die before it has enqueued the job, the job is due again later.
--
-- KEYS  1 job:{id}:state   2 worker:watch
-- ARGV  1 job ID   2 look at it again after, ms, if it was running   3 if it was queued
--       4 what was put on the queue before this time, ms, has been passed by
-- reply {was, job, trace}: was 'running' or 'queued', the job object as JSON, what the record
--       has of a trace ('' for none); or nothing, where there is nothing to do

local now = now_ms()
local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not due or tonumber(due) > now then
  return {}
end
local r = redis.call('HMGET', KEYS[1], 'status', 'job', 'created_ms', 'queued_ms', 'trace')
local status = r[1]
if not r[2] or (status ~= 'running' and status ~= 'queued') then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {}
end
local again = ARGV[3]
if status == 'running' then
  again = ARGV[2]
  redis.call('HSET', KEYS[1], 'status', 'queued')
  redis.call('HINCRBY', KEYS[1], 'strikes', 1)
  redis.call('HDEL', KEYS[1], 'owner')
end
redis.call('ZADD', KEYS[2], now + again, ARGV[1])
if status == 'queued' and tonumber(r[4] or r[3] or 0) >= tonumber(ARGV[4]) then
  return {}
end
redis.call('HSET', KEYS[1], 'queued_ms', now)
return {status, r[2], r[5] or ''}
