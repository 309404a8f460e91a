-- Append events of many jobs to their logs and publish the same bytes, in one step.
--
-- Refused are events of an attempt that is no longer the one at work, and events that
-- would leave a gap (a server that came back with an older state), or that the log cannot take
-- (others have written to it): such a log is removed. Skipped are events whose
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

  local r = try('HMGET', state, 'attempt', 'seq', 'status')
  local seq = whole(r[2], 0)
  if r[1] ~= attempt or (first <= seq and try('XLEN', log) ~= seq) then
    replies[#replies + 1] = 0
  elseif last <= seq then
    replies[#replies + 1] = 1
  elseif r[3] ~= 'running' or first > seq + 1 then
    replies[#replies + 1] = 0
  else
    local taken = 1
    for n = math.max(first, seq + 1), last do
      local _, foreign = try('XADD', log, n .. '-0', 'event', ARGV[base + n])
      if foreign then
        taken = 0
        break
      end
      redis.call('PUBLISH', 'job:' .. id, ARGV[base + n])
    end
    if taken == 0 then
      -- The lease runs out, and the next attempt begins a new log.
      redis.call('DEL', log)
      redis.call('HDEL', state, 'seq', 'chunks')
    else
      redis.call('HSET', state, 'seq', last, 'chunks', chunks)
    end
    if taken == 1 and ending ~= '' then
      redis.call('HSET', state, 'status', ending)
      redis.call('HDEL', state, 'owner', 'job')
      redis.call('EXPIRE', state, ttl)
      redis.call('EXPIRE', log, ttl)
      heal('ZREM', KEYS[1], id)
    elseif taken == 1 and redis.call('TTL', log) < 0 then
      local left = redis.call('TTL', state)
      redis.call('EXPIRE', log, left > 0 and left or LONGEST_S)
    end
    replies[#replies + 1] = taken
  end
end
return replies
