-- What time does to a queue, at most 100 of each a call: expired leases come
-- back at their old place (or are quarantined), due jobs become ready, waiting
-- jobs past their deadline expire. Before step and tick.
--
-- A step leases after it has reaped, though more may have expired than it could
-- take: healthy jobs do not wait for a dead worker's thousands. Leases are reaped
-- in the order of their expiry, which is the order they were taken (or last
-- renewed) in: a step that wants no more than the limit finds them in turn.
--
-- A lease that ran out counts a death, and it is not always one:
-- - Nobody could renew while the store was away. The queue is looked after every few
--   seconds by whoever keeps its timers; after a silence of most of a lease, leases
--   have as long again before they are reaped.
-- - One worker could not reach the store. When it asks for the lease it lost, it did
--   not die, and the death is taken back.

-- After how much of a lease without a sweep the store counts as having been away.
local SILENCE = 0.8
-- How far the clock may go back before it counts as set back, us.
local JITTER = 1000000
-- Most timers of each kind that are moved when it was.
local MOVED_MAX = 200000

-- The clock was set back: what was due by the old one would be late by as much.
local function set_back(now, by)
  for _, set in ipairs({ 'leases', 'sched', 'due', 'took' }) do
    local from, part = 0, nil
    repeat
      part = call('ZRANGE', base .. set, from, from + 999, 'WITHSCORES')
      local moved = {}
      for at = 1, #part, 2 do
        moved[at], moved[at + 1] = format('%d', part[at + 1] - by), part[at]
      end
      -- All of them by the same, so none changes its rank.
      if #moved > 0 then call('ZADD', base .. set, 'XX', unpack(moved)) end
      from = from + 1000
    until #part < 2000 or from >= MOVED_MAX
  end
  call('HSET', base .. 'meta', 'swept', now, 'at', now)
  call('HDEL', base .. 'meta', 'spared')
end

-- Compares the clock with when the queue was last looked after, `looked` (0: never).
local function check_silence(now, looked, lease)
  if looked == 0 then return end
  if looked - now > JITTER then
    set_back(now, looked - now)
  elseif now - looked > math.max(lease * SILENCE, SILENCE_MIN) then
    call('HSET', base .. 'meta', 'spared', now + lease)
  end
end

-- Whoever held this lease lives: that it ran out was no death.
local function undo_death(member)
  if call('ZREM', base .. 'lapsed', member) == 0 then return end
  local key = sub(member, 9)
  local rec = read(key)
  if sound(rec) and byte(rec, 3) > 0 then call('SETRANGE', base .. key, 2, char(byte(rec, 3) - 1)) end
end

-- How many leases were taken back, and until when they are spared.
local function reap(now, most)
  local members = call('ZRANGEBYSCORE', base .. 'leases', '-inf', now, 'LIMIT', 0, most)
  if #members == 0 then return 0, 0 end
  local spared = tonumber(call('HGET', base .. 'meta', 'spared')) or 0
  if spared > now then return 0, spared end
  call('ZREM', base .. 'leases', unpack(members))
  for _, member in ipairs(members) do
    local key = sub(member, 9)
    -- A job cancelled while leased has its record already.
    if call('SREM', base .. 'cx', key) == 0 then
      local rec = read(key)
      if sound(rec) then
        local attempts = math.min(byte(rec, 2) + 1, 255)
        local deaths = math.min(byte(rec, 3) + 1, 255)
        rec = char(PENDING, attempts, deaths) .. sub(rec, 4)
        if deaths >= MAX_DEATHS then
          dead_letter(key, rec, sub(member, 1, 8), CODE_FAILED, deaths .. ' workers died while running this job; it is quarantined, look at its input before it is redriven', now)
        else
          call('SETRANGE', base .. key, 1, char(attempts, deaths))
          call('ZADD', base .. 'lapsed', now, member)
          requeue(key, rec, now)
        end
      elseif rec and byte(rec, 1) == PENDING then
        dead_letter_corrupt(key, rec, now)
      end
    end
  end
  return #members, 0
end

local function promote(now, most)
  local keys = call('ZRANGEBYSCORE', base .. 'sched', '-inf', now, 'LIMIT', 0, most)
  if #keys == 0 then return 0 end
  call('ZREM', base .. 'sched', unpack(keys))
  local names, adds = {}, {}
  for i = 1, #keys do names[i] = base .. keys[i] end
  local records = call('MGET', unpack(names))
  for i = 1, #keys do
    -- Its score was fixed when it was scheduled; a missing record is dropped.
    local rec = records[i]
    if sound(rec) then
      local _, _, score = times_of(rec)
      adds[#adds + 1] = format('%d', score)
      adds[#adds + 1] = keys[i]
    elseif rec and byte(rec, 1) == PENDING then
      dead_letter_corrupt(keys[i], rec, now)
    end
  end
  if #adds > 0 then call('ZADD', base .. 'ready', unpack(adds)) end
  return #keys
end

local function expire(now, most)
  if call('EXISTS', base .. 'due') == 0 then return 0 end
  local keys = call('ZRANGEBYSCORE', base .. 'due', '-inf', now, 'LIMIT', 0, most)
  if #keys == 0 then return 0 end
  call('ZREM', base .. 'due', unpack(keys))
  for _, key in ipairs(keys) do
    local waiting = call('ZREM', base .. 'ready', key) + call('ZREM', base .. 'sched', key)
    local rec = waiting > 0 and read(key)
    if sound(rec) then
      bytes_added = bytes_added - cost(rec)
      finish(key, rec, EXPIRED, '\0\0\0\0\0\0\0\0', CODE_DEADLINE, 'the deadline passed before the job ran; allow more time or add workers', now)
    end
  end
  return #keys
end
