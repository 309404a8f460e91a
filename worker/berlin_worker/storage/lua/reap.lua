-- Take one job that is due; of several callers one gets it. A running job has lost its worker: it
-- becomes queued again, with one failed attempt more, and its old worker can no longer append. A
-- queued job is taken only if the queue has passed the time of its submission: then its message is
-- lost. A key of another type counts as a running job without a job object.
--
-- A caller that has enqueued the job removes the field `requeuing`, the number of the attempt that is
-- to be followed. If it dies before, or the reply is lost, the next caller takes the job again.
--
-- KEYS  1 job:{id}:state
-- ARGV  1 look at it again after, ms, if it was running   2 if it was queued
--       3 queue watermark, ms: anything enqueued earlier must have been consumed
-- reply {taken, again, job, trace}: taken 'running' or 'queued' by what the job was, or ''; look
--       at it again after, ms (-1: never, no such job waits or runs); of a taken job the job
--       object as JSON ('' if the record has none) and its trace carrier ('' for none)

local now = now_ms()
local r, wrong = try('HMGET', KEYS[1], 'status', 'job', 'created_ms', 'queued_ms', 'trace', 'lease_ms',
                     'failed_attempts', 'first_lease_ms', 'attempt', 'requeuing')
if wrong then
  return {'running', tonumber(ARGV[1]), '', ''}
end
local status = r[1]
if not status or OVER[status] then
  return {'', -1, '', ''}
end
local lease = whole(r[6], 0)
if lease > now and lease < now + DAY_MS then
  return {'', lease - now, '', ''}
end
local again = tonumber(ARGV[2])
if status == 'running' then
  again = tonumber(ARGV[1])
  redis.call('HSET', KEYS[1], 'status', 'queued', 'failed_attempts', count_failed(r[7]),
             'lost_after_ms', known_to_run_ms(r[6], r[8]))
  redis.call('HDEL', KEYS[1], 'owner', 'first_lease_ms')
elseif status ~= 'queued' then
  status = 'queued'
  redis.call('HSET', KEYS[1], 'status', status)
end
redis.call('HSET', KEYS[1], 'lease_ms', now + again)
local queued, attempt = whole(r[4], whole(r[3], 0)), r[9] or '0'
if status == 'queued' and r[10] ~= attempt and queued >= tonumber(ARGV[3]) and queued <= now then
  return {'', again, '', ''}
end
redis.call('HSET', KEYS[1], 'queued_ms', now, 'requeuing', attempt)
return {status, again, r[2] or '', r[5] or ''}
