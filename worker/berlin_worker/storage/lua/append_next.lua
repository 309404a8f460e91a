-- Append the next events of a running job on a cluster: what nearly every call of append.lua does
-- there. Each call has one job, and to make the functions of the prelude costs as much as an event.
-- Any other case is left, unchanged, to append.lua, which follows.
--
-- KEYS, ARGV and reply are those of append.lua.

local r = redis.pcall('HMGET', KEYS[1], 'owner', 'seq', 'status')
if r[1] == ARGV[2] and r[3] == 'running' and ARGV[6] == '' and r[2] and r[2] ~= '0'
   and tonumber(r[2]) == ARGV[3] - 1 then
  -- Without a log, or with one that cannot take it, the first event is not added.
  local added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', ARGV[3] .. '-0', 'event', ARGV[8])
  if type(added) == 'string' then
    redis.call('SPUBLISH', ARGV[1], ARGV[8])
    local last = ARGV[3]
    for n = 1, ARGV[4] - 1 do
      last = ARGV[3] + n
      redis.call('XADD', KEYS[2], last .. '-0', 'event', ARGV[8 + n])
      redis.call('SPUBLISH', ARGV[1], ARGV[8 + n])
    end
    redis.call('HSET', KEYS[1], 'seq', last, 'chunks', ARGV[5])
    return {1}
  end
end

