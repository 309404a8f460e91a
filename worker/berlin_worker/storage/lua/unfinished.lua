-- Return which records are of jobs that wait or run.
--
-- KEYS  job:{id}:state of each job; on a cluster those of one slot
-- reply for each job: 1 it waits or runs; 2 it runs by a record without a lease (of an older
--       version); 0 neither

local replies = {}
for n, key in ipairs(KEYS) do
  local r = try('HMGET', key, 'status', 'lease_ms')
  local open = r[1] == 'queued' or r[1] == 'running'
  replies[n] = open and (r[1] == 'running' and not r[2] and 2 or 1) or 0
end
return replies
