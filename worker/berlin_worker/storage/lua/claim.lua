-- Begin an attempt of a job, if the job is free: no attempt works on it, or the lease of that
-- attempt has run out. The owner fences every earlier attempt; a failover that loses a claim repeats
-- its number.
--
-- The lease of a running job is the field lease_ms.
--
-- KEYS  1 job:{id}:state   2 job:{id}:log   3 on one Redis: the partition of worker:due for this job
-- ARGV  1 owner, unique to this call   2 lease, ms   3 TTL of record and log, s
--       4 job object, JSON ('' to leave what is there)
--       5 owner of the caller's attempt, which gives way to its next one ('' for none)
--       6 '1' to claim only a job whose record is queued
--       7 headers by which a later message of the job continues its trace, JSON ('' for none)
--       8 fingerprint of the job object ('' if the caller has none)
--       9... further fields of the record and their values
-- reply {outcome, attempt, seq, chunks, failed_attempts, cancel reason, created, started, now,
--        leased, lost_after, status, progress}
--       outcome 'claimed', 'finished', 'leased', 'not_queued', or 'conflict' (the record is that of
--       another job with this ID)
--       times in ms; leased is the end of the lease of another attempt, or 0; lost_after is how long
--       the last attempt that lost its worker is known to have run
--       status as it was before the claim; progress is what earlier attempts have saved; cancel
--       reason '' if the job is not to be cancelled

-- Others may write records and logs: a key of another type is removed, a field that is no whole
-- number counts as missing, and a log that does not fit its record begins anew.
local r = heal('HMGET', KEYS[1], 'status', 'attempt', 'seq', 'chunks', 'failed_attempts',
               'cancel', 'created_ms', 'started_ms', 'owner', 'fingerprint', 'revoked', 'lease_ms',
               'progress', 'first_lease_ms', 'lost_after_ms')
local status, attempt = r[1], whole(r[2], 0)
local seq, chunks = whole(r[3], 0), whole(r[4], 0)
local lost_after = whole(r[15], 0)
local now = now_ms()
local created, started = math.min(whole(r[7], now), now), math.min(whole(r[8], now), now)

local cancel_reason = ''
if r[6] and r[6] ~= '' then
  cancel_reason = r[11] and 'revoked' or 'requested'
end

local function reply(outcome, fields)
  return {outcome, fields.attempt or attempt, seq, chunks,
          fields.failed_attempts or whole(r[5], 0), cancel_reason, fields.created or 0,
          fields.started or 0, now, fields.leased or 0, lost_after, status or '', r[13] or ''}
end

-- A record of an older version has no fingerprint, and is not compared; garbage counts as missing.
local mine = ARGV[8] or ''
if mine ~= '' and r[10] and #r[10] == #mine and r[10] ~= mine then
  return reply('conflict', {})
end
if OVER[status] then
  return reply('finished', {})
end
if status == 'running' and r[9] == ARGV[1] then
  -- The same call, sent again because its reply was lost.
  return reply('claimed', {created = created, started = started})
end
if ARGV[6] == '1' and status ~= 'queued' then
  return reply('not_queued', {})
end

local failed_attempts = whole(r[5], 0)
local gives_way = ARGV[5] ~= '' and ARGV[5] == r[9]
if status == 'running' then
  local lease = whole(r[12], 0)
  if not gives_way and lease > now and lease < now + DAY_MS then
    return reply('leased', {leased = lease})
  end
  failed_attempts = count_failed(r[5])
  if not gives_way then
    lost_after = known_to_run_ms(r[12], r[14])
  end
elseif ARGV[5] ~= '' then
  return reply('leased', {})  -- the caller's attempt was taken from it: it may not go on
end

-- One command for all fields: each call from a script costs more than what it does.
local lease = string.format('%.0f', now + ARGV[2])
local fields = {'status', 'running', 'attempt', attempt + 1, 'failed_attempts', failed_attempts, 'owner', ARGV[1],
                'created_ms', created, 'started_ms', started,
                'lease_ms', lease, 'first_lease_ms', lease}
local function add(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
if lost_after > 0 or r[15] then
  add('lost_after_ms', lost_after)
end
if ARGV[4] ~= '' then
  add('job', ARGV[4])
end
if ARGV[7] and ARGV[7] ~= '' then
  add('trace', ARGV[7])
end
if mine ~= '' and r[10] ~= mine then
  add('fingerprint', mine)
  add('fingerprint:' .. mine, 1)  -- once more as the name of a field, for submit.lua
  for n = 9, #ARGV, 2 do
    add(ARGV[n], ARGV[n + 1])
  end
end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('EXPIRE', KEYS[1], ARGV[3])
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
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
if KEYS[3] then
  heal('ZADD', KEYS[3], 'LT', lease, string.sub(KEYS[1], 6, -8))
  keep(KEYS[3], ARGV[3])
end
return reply('claimed', {attempt = attempt + 1, failed_attempts = failed_attempts, created = created,
                         started = started})
