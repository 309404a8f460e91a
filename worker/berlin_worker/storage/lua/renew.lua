-- Renew the leases of jobs of a process. Return which jobs it has lost, and which are cancelled.
--
-- KEYS  job:{id}:state of each job; on a cluster those of one slot
-- ARGV  1 lease, ms, then for each job: owner
-- reply for each job: 0 renewed, 1 lost, 2 renewed, and a client cancels it, 3 renewed, and
--       Celery has revoked it

local until_ms = string.format('%.0f', now_ms() + ARGV[1])  -- a number is converted at each use
local replies = {}
for k, key in ipairs(KEYS) do
  local r = try('HMGET', key, 'owner', 'status', 'cancel', 'revoked')
  if r[1] ~= ARGV[k + 1] or r[2] ~= 'running' then
    replies[k] = 1
  else
    redis.call('HSET', key, 'lease_ms', until_ms)
    if redis.call('TTL', key) < 0 then  -- others have written the record
      redis.call('EXPIRE', key, LONGEST_S)
    end
    replies[k] = r[3] and (r[4] and 3 or 2) or 0
  end
end
return replies
