-- Settles a batch and leases the next, in one call.
-- KEYS[1] base
-- ARGV    one for each name of STEP_ARGS (see settle_call.rs): want, above (nothing that
--         ranks no higher than this level is leased, '' whatever is next), lease (us), token of
--         the new leases (8 bytes), again (us since this call was first sent, 0: first
--         time), aging (step in us), max_dead, dead_ttl (ms), client_channel and
--         sweeper_channel (prefixes), index (whether errors are told to it: 0 or 1), register (what to note the consumer as when nothing
--         is ready, '' not), withdraw (what it is noted as, '' not), name (of the
--         consumer, 8 bytes), successes, others (how many follow),
--         then per success (sorted by client):
--           token + key, result ttl ms (negative: has a payload beside), client
--           ('' nobody), record
--         then per other: token + key, what (F again, D dead, X expired,
--           R released), delay us, error code, message
-- result  now us, whether ready jobs are left (1) or the consumer is noted as waiting (2),
--         number of refused, their indices (successes first, then others), then key,
--         record per leased job; jobs pushed to what it was noted as come with
--         that token in front of the key
-- Atomic, and fenced: a settlement counts only while its exact lease is held.
-- When the call is repeated because its reply was lost, what it did the first
-- time is recognised: settlements as done, leases under its token as taken.
-- Its parts: settle.lua, lease.lua.

-- Notes the bytes and totals that a step changed.
local function account_step(ask, bytes_before, ended_before, sweeps, now)
  file_dead()
  file_errors()
  if dropped ~= 0 then call('HINCRBY', own.meta, 'drop', dropped) end
  if bytes_added == 0 and ended == 0 and not sweeps then return end
  local bytes = math.max((tonumber(bytes_before) or 0) + bytes_added, 0)
  local fin = (tonumber(ended_before) or 0) + ended
  if not sweeps then
    call('HSET', own.meta, 'bytes', format('%d', bytes), 'fin', format('%d', fin))
    return
  end
  call('HSET', own.meta, 'bytes', bytes, 'fin', fin, 'swept', now)
  local rated = call('HMGET', own.meta, 'at', 'was')
  local at, was = tonumber(rated[1]) or 0, tonumber(rated[2]) or 0
  if now - at > 2000000 then
    local rate = at > 0 and (fin - was) * 1000000 / (now - at) or 0
    call('HSET', own.meta, 'at', now, 'was', fin, 'rate', rate)
  end
end

-- The call's arguments by name: one table, filled anew by each call.
local ask = {}

local function step(KEYS, ARGV)
  start(KEYS)
  name_keys()
  for at, name in ipairs(STEP_ARGS) do ask[name] = ARGV[at] end
  ask.argv, ask.head, ask.busy = ARGV, #STEP_ARGS, nil
  ask.want, ask.again, ask.lease = tonumber(ask.want), tonumber(ask.again), tonumber(ask.lease)
  ask.successes, ask.others = tonumber(ask.successes), tonumber(ask.others)
  max_dead, dead_ttl, channel = tonumber(ask.max_dead), ask.dead_ttl, ask.client_channel
  indexes = ask.index == '1'
  local now = now_us()
  ask.now = now
  local meta = call('HMGET', own.meta, 'paused', 'bytes', 'fin', 'swept')
  -- Before anything is found due by this clock.
  local swept = tonumber(meta[4]) or 0
  if swept > now or now - swept > SILENCE_MIN then check_silence(now, swept, ask.lease) end

  -- What most queues at most times have nothing of is asked for in one call.
  local rare = call('EXISTS', own.watch, own.cx, own.due, own.sched) > 0

  local refused = {}
  if ask.successes + ask.others > 0 then
    awaited = rare and call('EXISTS', own.watch) == 1
    settle(ask, refused, rare and call('EXISTS', own.cx) == 1)
  else
    awaited = true
  end

  -- Now and then, and about a batch's worth: the sweeper brings the rest, and a
  -- step stays short.
  local sweeps = now - swept >= 5000
  if sweeps then
    reap(now, 32)
    if rare then
      promote(now, 32)
      expire(now, 32)
    end
  end

  local reply = { now, 0, #refused }
  for index = 1, #refused do reply[3 + index] = refused[index] end
  recover_unseen(ask, reply)
  local paused = meta[1] == '1'
  local leased, all = 0, false
  if ask.want > 0 and not paused then leased, all = lease(ask, reply) end

  if not all and not paused and call('EXISTS', own.ready) == 1 then
    reply[2] = 1
    call('ZADD', own.marker, '0', '0')
  else
    -- With nothing leased it is gone, or wakes one consumer that finds nothing.
    if leased > 0 then call('DEL', own.marker) end
    if all and ask.register ~= '' and #reply == 3 + #refused then
      -- The next enqueue pushes its jobs to this consumer (see enqueue.lua).
      call('SADD', base .. 'parked', ask.register)
      reply[2] = 2
    end
  end
  account_step(ask, meta[2], meta[3], sweeps, now)
  return reply
end

register('step', step)
