-- Append events of many jobs to their logs and publish the same bytes, in one step.
--
-- Refused are:
-- * events of an attempt that does not own the job any more (its owner is compared: after a
--   failover that lost a claim, two attempts have the same number);
-- * events that would leave a gap (a server that was restored to an older state);
-- * events that the log cannot take, since another client has written to it: the log is removed.
-- Skipped are events that the log has already: a call whose reply was lost is repeated.
--
-- KEYS  for each job: job:{id}:state, job:{id}:log; on a cluster those of one job
-- ARGV  for each job: channel, owner, seq of the first event, number of events, chunks
--       since the last reset, final status ('' if the job continues), TTL after its end in
--       seconds, then the events
-- reply for each job: 1 taken, 0 refused

-- The hot path: `try` is written out here, since a call of a function costs a microsecond.
local call, pcall = redis.call, redis.pcall
local replies = {}
local at = 1
for k = 1, #KEYS, 2 do
  local state, log = KEYS[k], KEYS[k + 1]
  local channel, owner, first, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local chunks, ending, ttl = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
  local base = at + 7 - first
  at = at + 7 + count
  local last = first + count - 1

  local r = pcall('HMGET', state, 'owner', 'seq', 'status')
  if r.err then
    r = try('HMGET', state, 'owner', 'seq', 'status')
  end
  local seq = whole(r[2], 0)
  if r[1] ~= owner then
    -- An attempt that has ended has no owner. Its last events came again if the log has the same.
    local entry = not r[1] and try('XRANGE', log, last, last)[1]
    replies[#replies + 1] = entry and entry[2][2] == ARGV[base + last] and 1 or 0
  elseif first <= seq and try('XLEN', log) ~= seq then
    replies[#replies + 1] = 0
  elseif last <= seq then
    replies[#replies + 1] = 1
  elseif r[3] ~= 'running' or first > seq + 1 then
    replies[#replies + 1] = 0
  else
    local taken = 1
    local new = seq == 0  -- a new log has no TTL; a claim has renewed that of any other
    for n = math.max(first, seq + 1), last do
      local id, event, added = n .. '-0', ARGV[base + n], false
      if not new then
        added = pcall('XADD', log, 'NOMKSTREAM', id, 'event', event)
        new = not added  -- another client has removed it
      end
      if new then
        added = pcall('XADD', log, id, 'event', event)
      end
      if type(added) == 'table' then
        if hopeless(added) then
          taken = 0
          break
        end
        call('XADD', log, id, 'event', event)  -- raises the error
      end
      call(PUBLISH, channel, event)
    end
    if taken == 0 then
      -- The lease expires, and the next attempt begins a new log.
      call('DEL', log)
      call('HDEL', state, 'seq', 'chunks')
    else
      call('HSET', state, 'seq', last, 'chunks', chunks)
    end
    if taken == 1 and ending ~= '' then
      call('HSET', state, 'status', ending)
      call('HDEL', state, 'owner', 'job', 'lease_ms', 'first_lease_ms')
      call('EXPIRE', state, ttl)
      call('EXPIRE', log, ttl)
    elseif taken == 1 and new and call('TTL', log) < 0 then
      local left = call('TTL', state)
      call('EXPIRE', log, left > 0 and left or LONGEST_S)
    end
    replies[#replies + 1] = taken
  end
end
return replies
