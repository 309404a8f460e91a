-- Prepended to append.lua on a cluster: a cluster sends a plain PUBLISH to all of its nodes, and an
-- SPUBLISH to one. The channel has the slot of the job's keys.

local PUBLISH = 'SPUBLISH'

