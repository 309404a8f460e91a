-- Begin an attempt of a job, if it is free: one that nobody works on, or whose lease
-- has run out. The attempt number fences every earlier attempt.
--
-- The lease of a running job is its score in worker:due. A failed attempt is one that
-- did not end well: lost with its worker, or given up for a retry. Attempts that were
-- released at a shutdown do not count.
--
-- KEYS  1 job:{id}:state   2 job:{id}:log   3 worker:due   4 worker:jobs
-- ARGV  1 job ID   2 owner, unique to this call   3 lease, ms   4 TTL of record and log, s
--       5 job object, JSON ('' to leave what is there)
--       6 attempt of the caller that gives way to its next one (0: none)
--       7 '1' to claim only what is known and queued
--       8 headers by which a later message of the job continues its trace, JSON ('' for none)
--       9 fingerprint of the job object ('' if the caller has none)
--       10... further fields of the record and their values
-- reply {outcome, attempt, seq, chunks, failed_attempts, cancel reason, created, started, now,
--        leased, status}
--       outcome 'claimed', 'finished', 'leased', 'not_queued', or 'conflict' (the record is that of
--       another job with this ID); times in ms; leased until, or 0; status as it was before the
--       claim; cancel reason '' if the job is not to be cancelled

-- Others may write records and logs: a key of another type is removed, a field that is no whole
-- number counts as missing, and a log that does not fit its record begins anew.
local r = heal('HMGET', KEYS[1], 'status', 'attempt', 'seq', 'chunks', 'failed_attempts',
               'cancel', 'created_ms', 'started_ms', 'owner', 'fingerprint', 'revoked')
local status, attempt = r[1], whole(r[2], 0)
local seq, chunks = whole(r[3], 0), whole(r[4], 0)
local now = now_ms()
local created, started = math.min(whole(r[7], now), now), math.min(whole(r[8], now), now)

local cancel_reason = ''
if r[6] and r[6] ~= '' then
  cancel_reason = r[11] and 'revoked' or 'requested'
end

local function reply(outcome, fields)
  return {outcome, fields.attempt or attempt, seq, chunks,
          fields.failed_attempts or whole(r[5], 0), cancel_reason, fields.created or 0,
          fields.started or 0, now, fields.leased or 0, status or ''}
end

-- A record of an older version has no fingerprint, and is not compared; garbage counts as missing.
local mine = ARGV[9] or ''
if mine ~= '' and r[10] and #r[10] == #mine and r[10] ~= mine then
  return reply('conflict', {})
end
if OVER[status] then
  return reply('finished', {})
end
if status == 'running' and r[9] == ARGV[2] then
  -- The same call, sent again because its reply was lost.
  return reply('claimed', {created = created, started = started})
end
if ARGV[7] == '1' and status ~= 'queued' then
  return reply('not_queued', {})
end

local failed_attempts = whole(r[5], 0)
if status == 'running' then
  local lease = whole(heal('ZSCORE', KEYS[3], ARGV[1]), 0)
  if tonumber(ARGV[6]) ~= attempt and lease > now and lease < now + DAY_MS then
    return reply('leased', {leased = lease})
  end
  failed_attempts = failed_attempts + 1
elseif tonumber(ARGV[6]) ~= 0 then
  return reply('leased', {})  -- the caller's attempt was taken from it: it may not go on
end

-- One command for all fields: each call from a script costs more than what it does.
local fields = {'status', 'running', 'attempt', attempt + 1, 'failed_attempts', failed_attempts, 'owner', ARGV[2],
                'created_ms', created, 'started_ms', started}
local function add(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
if ARGV[5] ~= '' then
  add('job', ARGV[5])
end
if ARGV[8] and ARGV[8] ~= '' then
  add('trace', ARGV[8])
end
if mine ~= '' and r[10] ~= mine then
  add('fingerprint', mine)
  add('fingerprint:' .. mine, 1)  -- once more as the name of a field, for submit.lua
  for n = 10, #ARGV, 2 do
    add(ARGV[n], ARGV[n + 1])
  end
end
redis.call('HSET', KEYS[1], unpack(fields))
if not r[7] then
  index(KEYS[4], ARGV[1], created, ARGV[4])
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
local entries, foreign = nil, nil
if attempt > 0 then
  entries, foreign = try('XLEN', KEYS[2])
end
if foreign or entries ~= seq then
  redis.call('DEL', KEYS[2])  -- a log that is not of this record: seq begins again at 1
  if r[3] then
    seq, chunks = 0, 0
    redis.call('HDEL', KEYS[1], 'seq', 'chunks')
  end
else
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
heal('ZADD', KEYS[3], now + ARGV[3], ARGV[1])
keep(KEYS[3], ARGV[4])
return reply('claimed', {attempt = attempt + 1, failed_attempts = failed_attempts, created = created,
                         started = started})
