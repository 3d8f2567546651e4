-- Gives a model's queue its number.
-- KEYS[1] base of the deployment's own keys
-- ARGV    1 model
-- result  the number, the same for ever
-- Atomic: two processes get one number.

local function number(KEYS, ARGV)
  start(KEYS)
  local queues = base .. 'queues'
  local known = call('HGET', queues, ARGV[1])
  if known then return tonumber(known) end
  -- Some may be known to processes alone, of a server that lost its data.
  local number = 1
  for _, taken in ipairs(call('HVALS', queues)) do number = math.max(number, tonumber(taken) + 1) end
  call('HSET', queues, ARGV[1], number)
  return number
end

-- Refused when the server is out of memory.
register('number', number, {})
