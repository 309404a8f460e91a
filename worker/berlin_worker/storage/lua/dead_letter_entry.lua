-- Stands before the scripts that add to the dead letters.

-- Add an entry to the dead letters, at most about `most`, with the time, s, and further fields.
-- `run` is `heal`, which replaces a key of another type, or redis.call, which raises an error.
local function add_dead_letter(run, key, most, ...)
  run('XADD', key, 'MAXLEN', '~', most, '*', 'ts', now_ms() / 1000, ...)
end
