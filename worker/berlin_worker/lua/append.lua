-- Append events of many jobs to their logs and publish the same bytes, in one step.
--
-- Refused are events of an attempt that is no longer the one at work, and events that
-- would leave a gap (a server that came back with an older state). Skipped are events whose
-- seq the log has already: a command whose reply was lost is sent again.
--
-- KEYS  1 worker:watch, then for each job: job:{id}:state, job:{id}:log
-- ARGV  for each job: job ID, attempt, seq of the first event, number of events, chunks
--       since the last reset, status it ends with ('' if it goes on), TTL after its end in
--       seconds, then the events
-- reply for each job: 1 taken, 0 refused

local replies = {}
local at = 1
for k = 2, #KEYS, 2 do
  local state, log = KEYS[k], KEYS[k + 1]
  local id, attempt, first, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local chunks, ending, ttl = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
  local base = at + 7 - first
  at = at + 7 + count
  local last = first + count - 1

  local r = redis.call('HMGET', state, 'attempt', 'seq', 'status')
  local seq = tonumber(r[2] or 0)
  if r[1] ~= attempt then
    replies[#replies + 1] = 0
  elseif last <= seq then
    replies[#replies + 1] = 1
  elseif r[3] ~= 'running' or first > seq + 1 then
    replies[#replies + 1] = 0
  else
    for n = math.max(first, seq + 1), last do
      redis.call('XADD', log, n .. '-0', 'event', ARGV[base + n])
      redis.call('PUBLISH', 'job:' .. id, ARGV[base + n])
    end
    redis.call('HSET', state, 'seq', last, 'chunks', chunks)
    if ending ~= '' then
      redis.call('HSET', state, 'status', ending)
      redis.call('HDEL', state, 'owner', 'job')
      redis.call('EXPIRE', state, ttl)
      redis.call('EXPIRE', log, ttl)
      redis.call('ZREM', KEYS[1], id)
    elseif redis.call('TTL', log) < 0 then
      redis.call('EXPIRE', log, redis.call('TTL', state))
    end
    replies[#replies + 1] = 1
  end
end
return replies
