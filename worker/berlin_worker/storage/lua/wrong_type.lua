-- Shared by delete_wrong_types.lua and requeue_expired.lua. Delete a key that has another type than
-- this one: no command of ours on it can succeed. Return whether it was deleted.
local function delete_unless(key, kind)
  local found = redis.call('TYPE', key).ok
  if found == 'none' or found == kind then
    return false
  end
  redis.call('DEL', key)
  return true
end

