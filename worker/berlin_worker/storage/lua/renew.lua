-- Renew the leases of all jobs of a process, and say which are not its own any more.
--
-- KEYS  1 worker:due, then the job:{id}:state of each job
-- ARGV  1 lease, ms, then for each job: job ID, attempt
-- reply for each job: 0 renewed, 1 lost, 2 renewed, and a client cancels it, 3 renewed, and
--       Celery has revoked it

local until_ms = now_ms() + ARGV[1]
local replies = {}
for k = 2, #KEYS do
  local id, attempt = ARGV[2 * k - 2], ARGV[2 * k - 1]
  local r = try('HMGET', KEYS[k], 'attempt', 'status', 'cancel', 'revoked')
  if r[1] ~= attempt or r[2] ~= 'running' then
    replies[#replies + 1] = 1
  else
    heal('ZADD', KEYS[1], until_ms, id)
    local left = redis.call('TTL', KEYS[k])
    if left < 0 then  -- others have written the record
      left = LONGEST_S
      redis.call('EXPIRE', KEYS[k], left)
    end
    keep(KEYS[1], left)
    replies[#replies + 1] = r[3] and (r[4] and 3 or 2) or 0
  end
end
return replies
