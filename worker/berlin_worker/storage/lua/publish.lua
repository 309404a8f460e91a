-- Prepended to append.lua on one Redis: any reader of the server gets what is published.

local PUBLISH = 'PUBLISH'

