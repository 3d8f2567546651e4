-- Gives a model's queue its number.
-- KEYS[1] base of the deployment's own keys
-- ARGV    1 model
-- result  the number, the same for ever
-- Atomic: two processes get one number.

local queues = KEYS[1] .. 'queues'
local known = redis.call('HGET', queues, ARGV[1])
if known then return tonumber(known) end
local number = redis.call('HLEN', queues) + 1
redis.call('HSET', queues, ARGV[1], number)
return number
