-- Shared by claim.lua and reap.lua. Return the failed attempts of a job after one more, from the field
-- of the record. A failed attempt was lost with its worker, or given up for a retry. One that was
-- released at a shutdown does not count.
local function count_failed(field)
  return whole(field, 0) + 1
end

