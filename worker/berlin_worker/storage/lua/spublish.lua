-- Prepended to append.lua on a cluster, which would send a plain PUBLISH to each of its nodes.
-- The channel has the slot of the job's keys.

local PUBLISH = 'SPUBLISH'

