-- Takes back a lane's interest in a job.
-- KEYS[1] base
-- ARGV    1 key, 2 lane (8 bytes)
-- result  nothing
-- Atomic: other lanes' interest stays.

local function unwatch(KEYS, ARGV)
  start(KEYS)
  local lanes = call('HGET', base .. 'watch', ARGV[1]) or ''
  local kept = ''
  for at = 1, #lanes, 8 do
    local lane = sub(lanes, at, at + 7)
    if lane ~= ARGV[2] then kept = kept .. lane end
  end
  if kept == '' then
    call('HDEL', base .. 'watch', ARGV[1])
  else
    call('HSET', base .. 'watch', ARGV[1], kept)
  end
  return false
end

register('unwatch', unwatch)
