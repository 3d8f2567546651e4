-- Takes back a client's interest in a job.
-- KEYS[1] base
-- ARGV    1 key, 2 client (8 bytes)
-- result  nothing
-- Atomic: other clients' interest stays.

local function remove_waiter(KEYS, ARGV)
  start(KEYS)
  local clients = call('HGET', base .. 'watch', ARGV[1]) or ''
  local kept = ''
  for at = 1, #clients, 8 do
    local client = sub(clients, at, at + 7)
    if client ~= ARGV[2] then kept = kept .. client end
  end
  if kept == '' then
    call('HDEL', base .. 'watch', ARGV[1])
  else
    call('HSET', base .. 'watch', ARGV[1], kept)
  end
  return false
end

register('remove_waiter', remove_waiter)
