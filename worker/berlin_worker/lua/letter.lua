-- Stands before the scripts that add to the dead letters.

-- Add an entry to the dead letters, at most about `most`, with the time, s, and further fields.
local function add_dead_letter(key, most, ...)
  heal('XADD', key, 'MAXLEN', '~', most, '*', 'ts', now_ms() / 1000, ...)
end
