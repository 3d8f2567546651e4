-- Does for an idle queue what time asks for, on the one process that is its sweeper,
-- and says when to come again.
-- KEYS[1] base
-- ARGV    1 process (8 bytes), 2 longest pause us, 3 most dead letters, 4 their
--         ttl ms, 5 client channel prefix, 6 lease us,
--         7 whether the index is told of errors (0 or 1)
-- result  0 when another process is the sweeper, else 1 and us until the next call
-- Atomic: the role is held for as long as the pause, and a little more.

local HOUR = 3600000000

local function tick(KEYS, ARGV)
  start(KEYS)
  local sweeper = call('GET', base .. 'keeper')
  if sweeper and sub(sweeper, 1, 8) ~= ARGV[1] then return { 0 } end
  max_dead, dead_ttl, channel, indexes = tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[7] == '1'
  awaited = call('EXISTS', base .. 'watch') == 1
  local now, pause = now_us(), tonumber(ARGV[2])
  local again = now + pause
  local SWEEP = 50
  check_silence(now, tonumber(call('HGET', base .. 'meta', 'swept')) or 0, tonumber(ARGV[6]))
  call('HSET', base .. 'meta', 'swept', now)
  local reaped, spared = reap(now, SWEEP)
  local promoted, expired = promote(now, SWEEP), expire(now, SWEEP)
  -- When very many are due at once the others are served in between.
  local soonest = now
  if reaped == SWEEP or promoted == SWEEP or expired == SWEEP then soonest = now + 2000 end

  for _, set in ipairs({ 'leases', 'sched', 'due' }) do
    local head = call('ZRANGE', base .. set, 0, 0, 'WITHSCORES')
    local due = head[2] and tonumber(head[2])
    if due and set == 'leases' then due = math.max(due, spared) end
    if due and due < again then again = math.max(due, soonest) end
  end
  -- Dead letters whose records have run out.
  local old = call('ZRANGEBYSCORE', base .. 'dead', '-inf', now - tonumber(ARGV[4]) * 1000, 'LIMIT', 0, SWEEP)
  if #old > 0 then call('ZREM', base .. 'dead', unpack(old)) end
  -- Also gives back a wake-up that a killed consumer took with it.
  if call('ZCARD', base .. 'ready') > 0 and call('HGET', base .. 'meta', 'paused') ~= '1' then
    call('ZADD', base .. 'marker', 0, '0')
  end
  -- Of consumers that were killed while nobody enqueued.
  call('EXPIRE', base .. 'parked', 3600)
  -- What no holder will ask for any more.
  call('ZREMRANGEBYSCORE', base .. 'took', '-inf', now - HOUR)
  call('ZREMRANGEBYSCORE', base .. 'lapsed', '-inf', now - HOUR)
  account()
  call('SET', base .. 'keeper', ARGV[1] .. format('%d', again), 'PX', math.ceil((again - now) / 1000) + 1000)
  return { 1, again - now }
end

register('tick', tick)
