-- Return the state of an account's token. If an owner is given, take the lock of the login first,
-- if it is free, or held by this owner (the call is a repetition).
--
-- KEYS  1 token (hash: gen, at_ms, the token in field ARGV[1])   2 lock (string: owner)
--       3 failed logins (hash: count, retry_at_ms, error)
-- ARGV  1 field of the token   2 owner, '' to look only   3 TTL of the lock, ms
-- reply {gen, token, TTL of the token in ms, 'free' | 'ours' | 'others',
--        failures in a row, ms until the next login may be tried, error JSON};
--       '' and 0 for what does not exist

local now = now_ms()
local holder = heal('GET', KEYS[2])
-- A lock that never expires, or not within an hour, was not taken here.
local held_ms = redis.call('PTTL', KEYS[2])
if holder and (held_ms < 0 or held_ms > 3600000) then
  redis.call('DEL', KEYS[2])
  holder = false
end
if ARGV[2] ~= '' and (not holder or holder == ARGV[2]) then
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
  holder = ARGV[2]
end
local lock = 'others'
if not holder then
  lock = 'free'
elseif holder == ARGV[2] then
  lock = 'ours'
end

local gen, token, ttl_ms = '', '', 0
-- A key of another type, or one that never expires, was not written here: no token.
if redis.call('TYPE', KEYS[1])['ok'] == 'hash' then
  gen = redis.call('HGET', KEYS[1], 'gen') or ''
  token = redis.call('HGET', KEYS[1], ARGV[1]) or ''
  ttl_ms = math.max(0, redis.call('PTTL', KEYS[1]))
end

local failed = heal('HMGET', KEYS[3], 'count', 'retry_at_ms', 'error')
-- The back-off is over when the key is: one that never expires was not written here, either.
local pause_ms = math.min(whole(failed[2], 0) - now, redis.call('PTTL', KEYS[3]))
return {gen, token, ttl_ms, lock, whole(failed[1], 0), math.max(0, pause_ms), failed[3] or ''}
