-- Settles a batch and leases the next, in one call.
-- KEYS[1] base
-- ARGV    1 want, 2 lease us, 3 token of the new leases (8 bytes),
--         4 us since this call was first sent (0: first time), 5 aging step us,
--         6 most dead letters, 7 their ttl ms, 8 client channel prefix,
--         9 keeper channel prefix, 10 what to park the consumer as when nothing is
--         ready ('' not), 11 what it is parked as ('' not), 12 the consumer's name
--         (8 bytes), 13 stored, 14 others,
--         then per stored (a job that succeeded; sorted by client):
--           token + key, result ttl ms (negative: has a payload beside), client
--           ('' nobody), record
--         then per other: token + key, what (F again, D dead, X expired,
--           R released), delay us, error code, message
-- result  now us, whether ready jobs are left (1) or the consumer is parked (2),
--         number of refused, their indices (stored first, then others), then key,
--         record per leased job; jobs handed to what it was parked as come with
--         that token in front of the key
-- Atomic, and fenced: a settlement counts only while its exact lease is held.
-- When the call is repeated because its reply was lost, what it did the first
-- time is recognised: settlements as done, leases under its token as taken.

local HEAD = 14
-- Most leases one call takes, a microsecond apart.
local LEASES_MAX = 1024

-- Whether a settlement was made by the first try of this very call.
local function done_before(ARGV, stored, index, member)
  local rec = read(sub(member, 9))
  if index <= stored then
    return rec == ARGV[HEAD + index * 4]
  end
  local at = HEAD + stored * 4 + (index - stored - 1) * 5
  if ARGV[at + 2] == 'R' then return true end
  return settled_under(rec) == sub(member, 1, 8)
end

-- Adds the leases of `owner` to the reply: of a call whose reply was lost, or handed
-- over unseen. `took` says when the consumer's last leases end, and nobody renews what
-- nobody knows: they stand where they were put, however many others there are.
-- Returns how many jobs are still wanted.
local function recover(reply, want, who, owner, from)
  local expiry = tonumber(call('ZSCORE', base .. 'took', who))
  if not expiry then return want end
  local taken = call('ZRANGEBYSCORE', base .. 'leases', expiry, expiry + LEASES_MAX)
  local r = #reply
  for _, member in ipairs(taken) do
    if sub(member, 1, 8) == owner then
      local rec = read(sub(member, 9))
      if rec then
        reply[r + 1], reply[r + 2] = sub(member, from), rec
        r, want = r + 2, want - 1
      end
    end
  end
  return want
end

-- The names of a queue's keys, made once while one queue is called again and again.
local NAMES = { 'meta', 'leases', 'ready', 'marker', 'watch', 'cx', 'due', 'sched', 'took' }
local own = {}

-- Writes the settlements of the leases that are held, which `held` then says no more.
local function settle(ARGV, now, aging, members, held, stored, others)
  -- Most have the same ttl, and many the same length.
  local plain_ttl, last_len, packed_len
  local client, frames, f = '', {}, 0
  for index = 1, stored do
    if held[index] then
      local at = HEAD + index * 4
      local key, ttl, to, rec = sub(members[index], 9), ARGV[at - 2], ARGV[at - 1], ARGV[at]
      if ttl ~= plain_ttl then
        if byte(ttl, 1) == 45 then
          ttl = sub(ttl, 2)
          call('UNLINK', base .. key .. ':in')
        else
          plain_ttl = ttl
        end
      end
      call('PSETEX', base .. key, ttl, rec)
      ended = ended + 1
      if to ~= client then
        if f > 0 then call('PUBLISH', channel .. client, table.concat(frames, '', 1, f)) end
        client, f = to, 0
      end
      if client ~= '' then
        if #rec ~= last_len then last_len, packed_len = #rec, pack('<I4', #rec) end
        frames[f + 1], frames[f + 2], frames[f + 3] = key, packed_len, rec
        f = f + 3
      end
      if watching then notify_watchers(key, rec) end
      held[index] = false
    end
  end
  if f > 0 then call('PUBLISH', channel .. client, table.concat(frames, '', 1, f)) end

  -- Read, and those that run again written, in one command each: a storm of retries
  -- must not keep others waiting.
  local first_due
  local records, sets, scheds = {}, {}, {}
  if others > 0 then
    local names = {}
    for index = 1, others do names[index] = base .. sub(members[stored + index], 9) end
    records = call('MGET', unpack(names))
  end
  for index = 1, others do
    local member = members[stored + index]
    local rec = held[stored + index] and records[index]
    local body = sound(rec)
    if body then
      local at = HEAD + stored * 4 + (index - 1) * 5
      local key, what, code, message = sub(member, 9), ARGV[at + 2], tonumber(ARGV[at + 4]), ARGV[at + 5]
      local by = sub(member, 1, 8)
      if what == 'R' then
        requeue(key, rec, now)
      elseif what == 'F' then
        -- Thousands fail at once when a dependency does: each string is made once.
        local attempts, deaths, flags = byte(rec, 2, 4)
        local due = now + tonumber(ARGV[at + 3])
        local created, queued, score = times_of(rec)
        -- Under aging its place is that of its due time; under strict its old one.
        if aging > 0 then score = due - (queued - score) end
        local s = #sets
        sets[s + 1] = base .. key
        if attempts < 255 then attempts = attempts + 1 end
        local first, from = begin(PENDING, attempts, deaths, bor(flags, TAIL), created, due, score), after_times(flags)
        sets[s + 2] = first .. sub(rec, from, body) .. by .. pack('<I1dI2', code, now, #message) .. message
        if flags % 2 == DEADLINE then call('ZADD', own.due, deadline_of(rec), key) end
        bytes_added = bytes_added + #first + body - from + 1
        if flags % 4 >= BLOB then bytes_added = bytes_added + payload_len(rec) end
        if due > now then
          local d = #scheds
          scheds[d + 1], scheds[d + 2] = format('%d', due), key
          if not first_due or due < first_due then first_due = due end
        else
          call('ZADD', own.ready, score, key)
        end
      else
        rec = char(PENDING, math.min(byte(rec, 2) + 1, 255)) .. sub(rec, 3)
        if what == 'D' then
          bury(key, rec, by, code, message, now)
        else
          finish(key, rec, EXPIRED, by, code, message, now)
        end
      end
    elseif rec and byte(rec, 1) == PENDING then
      entomb(sub(member, 9), rec, now)
    end
    -- Those that run again are written below, all together.
    if ARGV[HEAD + stored * 4 + index * 5 - 3] ~= 'F' then held[stored + index] = false end
  end
  if #sets > 0 then call('MSET', unpack(sets)) end
  if #scheds > 0 then call('ZADD', own.sched, unpack(scheds)) end
  if first_due then nudge(ARGV[9], first_due) end
end

local function step(KEYS, ARGV)
  start(KEYS)
  if own.base ~= base then
    own = { base = base }
    for _, name in ipairs(NAMES) do own[name] = base .. name end
  end
  local want, token, again, aging = tonumber(ARGV[1]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
  max_dead, dead_ttl, channel = tonumber(ARGV[6]), ARGV[7], ARGV[8]
  local stored, others = tonumber(ARGV[13]), tonumber(ARGV[14])
  local total = stored + others
  local now = now_us()
  local meta = call('HMGET', own.meta, 'paused', 'bytes', 'fin', 'swept')
  local refused = {}
  -- Before anything is found due by this clock.
  local looked, lease = tonumber(meta[4]) or 0, tonumber(ARGV[2])
  if looked > now or now - looked > SILENCE_MIN then look(now, looked, lease) end

  -- What most queues at most times have nothing of is asked for in one call.
  local rare = call('EXISTS', own.watch, own.cx, own.due, own.sched) > 0

  if total > 0 then
    watching = rare and call('EXISTS', own.watch) == 1
    local members = {}
    for index = 1, stored do members[index] = ARGV[HEAD + index * 4 - 3] end
    for index = 1, others do members[stored + index] = ARGV[HEAD + stored * 4 + index * 5 - 4] end
    local held
    if total == 1 then
      held = { call('ZREM', own.leases, members[1]) == 1 }
    else
      held = call('ZMSCORE', own.leases, unpack(members))
      call('ZREM', own.leases, unpack(members))
    end
    local cancelled = rare and call('EXISTS', own.cx) == 1
    for index = 1, total do
      local member = members[index]
      if not held[index] then
        if again == 0 or not done_before(ARGV, stored, index, member) then
          refused[#refused + 1] = index
          pardon(member)
        end
      elseif cancelled and call('SREM', own.cx, sub(member, 9)) == 1 then
        held[index] = false
        refused[#refused + 1] = index
      end
    end

    local ok, failure = pcall(settle, ARGV, now, aging, members, held, stored, others)
    if not ok then
      -- What is not settled is leased as before: no job is lost with another one.
      local back = {}
      for index = 1, total do
        if held[index] then back[#back + 1], back[#back + 2] = format('%d', now + lease), members[index] end
      end
      if #back > 0 then call('ZADD', own.leases, unpack(back)) end
      error(failure, 0)
    end
  else
    watching = true
  end

  -- Now and then, and about a batch's worth: the timekeeper brings the rest, and a
  -- step stays short.
  local sweeps = now - looked >= 5000
  if sweeps then
    reap(now, 32)
    if rare then
      promote(now, 32)
      expire(now, 32)
    end
  end

  local reply = { now, 0, #refused }
  for index = 1, #refused do reply[3 + index] = refused[index] end
  local paused = meta[1] == '1'

  if again > 0 then
    if ARGV[10] ~= '' then call('SREM', base .. 'parked', ARGV[10]) end
    want = recover(reply, want, ARGV[12], token, 9)
  end
  if ARGV[11] ~= '' and call('SREM', base .. 'parked', ARGV[11]) == 0 then
    want = recover(reply, want, 'h' .. ARGV[12], sub(ARGV[11], 9, 16), 1)
  end

  local r = #reply
  local keys = {}
  if want > 0 and not paused then keys = call('ZRANGE', own.ready, '0', format('%d', want - 1)) end
  local all = want > 0 and not paused and #keys < want
  if #keys > 0 then
    local names = {}
    for i = 1, #keys do names[i] = base .. keys[i] end
    local records = call('MGET', unpack(names))
    local leases, taken, lost = {}, 0, 0
    local expiry = now + lease
    local count = #keys
    local due, busy
    for i = 1, count do
      local rec = records[i]
      local state, attempts, deaths, flags
      if rec and #rec > 0 then
        state, attempts, deaths, flags = byte(rec, 1, 4)
        if state == PENDING and (#rec < SHORTEST or (flags % 4 >= BLOB or flags % 16 >= TAIL) and not sound(rec)) then state = CORRUPT end
      end
      if state == PENDING and deaths > 0 and taken > 0 then
        -- Held by a worker that died: it runs alone, and not in this batch.
        count = i - 1
        break
      end
      if state == PENDING and deaths >= LAST_CHANCE then
        if busy == nil then
          local other = call('HGET', own.meta, 'last_chance')
          busy = other and call('ZSCORE', own.leases, other)
        end
        if busy then
          -- Out of the order for a moment, its place kept.
          call('ZADD', own.sched, format('%d', now + POSTPONED), keys[i])
          nudge(ARGV[9], now + POSTPONED)
          state = false
        else
          call('HSET', own.meta, 'last_chance', token .. keys[i])
        end
      end
      if state == PENDING then
        taken = taken + 1
        -- A microsecond apart, so that leases of a dead worker expire, and are
        -- reaped a bounded number a call, in the order they were taken in.
        leases[taken * 2 - 1], leases[taken * 2] = format('%d', expiry + taken), token .. keys[i]
        reply[r + 1], reply[r + 2] = keys[i], rec
        r = r + 2
        if flags % 4 < BLOB and flags % 16 < TAIL then
          bytes_added = bytes_added - #rec
        else
          bytes_added = bytes_added - cost(rec)
        end
        if flags % 2 == DEADLINE then
          due = due or {}
          due[#due + 1] = keys[i]
        end
        if deaths > 0 then
          count = i
          break
        end
      elseif state and band(state, 7) ~= 2 and state ~= DEAD and state ~= CANCELLED and state ~= EXPIRED then
        -- Not a record: dead-lettered alone, its neighbours served.
        entomb(keys[i], rec, now)
      end
      -- What is left is missing, ended already or postponed: dropped from the order.
    end
    if count > 0 then call('ZREMRANGEBYRANK', own.ready, '0', format('%d', count - 1)) end
    if taken > 0 then
      call('ZADD', own.leases, unpack(leases))
      call('ZADD', own.took, leases[1], ARGV[12])
    end
    if due then call('ZREM', own.due, unpack(due)) end
    all = all and count == #keys
  end

  if not all and not paused and call('EXISTS', own.ready) == 1 then
    reply[2] = 1
    call('ZADD', own.marker, '0', '0')
  else
    -- With nothing leased it is gone, or wakes one consumer that finds nothing.
    if #keys > 0 then call('DEL', own.marker) end
    if all and ARGV[10] ~= '' and r == 3 + #refused then
      -- The next enqueue hands its jobs to this consumer (see enqueue.lua).
      call('SADD', base .. 'parked', ARGV[10])
      reply[2] = 2
    end
  end

  file_dead()
  if dropped ~= 0 then call('HINCRBY', own.meta, 'drop', dropped) end
  if bytes_added ~= 0 or ended ~= 0 or sweeps then
    local bytes = math.max((tonumber(meta[2]) or 0) + bytes_added, 0)
    local fin = (tonumber(meta[3]) or 0) + ended
    if sweeps then
      call('HSET', own.meta, 'bytes', bytes, 'fin', fin, 'swept', now)
      local rated = call('HMGET', own.meta, 'at', 'was')
      local at, was = tonumber(rated[1]) or 0, tonumber(rated[2]) or 0
      if now - at > 2000000 then
        local rate = at > 0 and (fin - was) * 1000000 / (now - at) or 0
        call('HSET', own.meta, 'at', now, 'was', fin, 'rate', rate)
      end
    else
      call('HSET', own.meta, 'bytes', format('%d', bytes), 'fin', format('%d', fin))
    end
  end
  return reply
end

register('step', step)
