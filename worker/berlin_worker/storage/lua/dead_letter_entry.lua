-- Prepended to the scripts that add to the dead letters.

-- Add an entry with the time, s, and further fields; trim the dead letters to about `most` entries.
-- A value of another type is replaced: otherwise no entry could be added until somebody deletes it.
local function add_dead_letter(key, most, ...)
  heal('XADD', key, 'MAXLEN', '~', most, '*', 'ts', now_ms() / 1000, ...)
end
