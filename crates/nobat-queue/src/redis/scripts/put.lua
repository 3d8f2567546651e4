-- Keeps a result that travels beside its record, on a server that is out of memory
-- and refuses a plain SET.
-- KEYS[1] the result's key
-- ARGV    1 its ttl ms, 2 its bytes
-- result  nothing
-- Atomic. The bytes pass through Lua, which is slow: for this case only.

local function put(KEYS, ARGV)
  start(KEYS)
  call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
  return false
end

register('put', put)
