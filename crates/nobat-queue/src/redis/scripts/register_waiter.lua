-- Registers a client's interest in a job, and looks.
-- KEYS[1] base
-- ARGV    1 key, 2 client (8 bytes)
-- result  nil when there is no record, the record when the job has ended, else 1
-- Atomic: a job that ends after this call is published to the client.

local function register_waiter(KEYS, ARGV)
  start(KEYS)
  local rec = read(ARGV[1])
  if not rec then return false end
  if byte(rec, 1) ~= PENDING then return rec end
  if band(byte(rec, 4), REPLY) == 0 or client_of(rec) ~= ARGV[2] then
    local clients = call('HGET', base .. 'watch', ARGV[1]) or ''
    for at = 1, #clients, 8 do
      if sub(clients, at, at + 7) == ARGV[2] then return 1 end
    end
    call('HSET', base .. 'watch', ARGV[1], clients .. ARGV[2])
  end
  return 1
end

register('register_waiter', register_waiter)
