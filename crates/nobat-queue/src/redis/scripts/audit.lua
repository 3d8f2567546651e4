-- Confirms that a job is misplaced, and if asked sets it right.
-- KEYS[1] base
-- ARGV    1 set it was found in ('' none), 2 member, 3 key, 4 whether to repair,
--         5 dead letters' ttl ms, 6 client channel prefix
-- result  0 nothing is wrong, 1 it is, 2 it was removed from the set (or queued
--         again when it was in none), 3 it was dead-lettered
-- Atomic: a job in motion is not mistaken for a lost one.

-- A set that is of another type (a finding of its own) holds nothing.
local function in_set(name, who)
  local score = redis.pcall('ZSCORE', base .. name, who)
  return type(score) == 'string'
end

-- Whether a pending job stands anywhere.
local function placed(key)
  if in_set('ready', key) or in_set('sched', key) then return true end
  local place = '0'
  repeat
    local reply = redis.pcall('ZSCAN', base .. 'leases', place, 'MATCH', '*', 'COUNT', 1000)
    if reply.err then return false end
    for at = 1, #reply[2], 2 do
      if sub(reply[2][at], 9) == key then return true end
    end
    place = reply[1]
  until place == '0'
  return false
end

local function audit(KEYS, ARGV)
  start(KEYS)
  local set, member, key, repair = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
  dead_ttl, channel = ARGV[5], ARGV[6]
  awaited = call('TYPE', base .. 'watch').ok == 'hash'
  local now = now_us()
  local rec = read(key)

  if set == '' then
    if not rec or in_set('dead', key) then return 0 end
    local state = byte(rec, 1)
    if state == PENDING and placed(key) then return 0 end
    if state ~= PENDING and state and (band(state, 7) == SUCCEEDED or state <= CORRUPT) then return 0 end
    if not repair then return 1 end
    if sound(rec) then
      requeue(key, rec, now)
      call('ZADD', base .. 'marker', 0, '0')
      call('HINCRBY', base .. 'meta', 'bytes', format('%d', bytes_added))
      return 2
    end
    dead_letter_corrupt(key, rec, now)
    return 3
  end

  if not in_set(set, member) then return 0 end
  local state = rec and byte(rec, 1)
  if set == 'dead' then
    if state == DEAD or state == CORRUPT then return 0 end
  elseif state == PENDING and sound(rec) then
    return 0
  elseif set == 'leases' and state == CANCELLED then
    return 0
  end
  if not repair then return 1 end
  call('ZREM', base .. set, member)
  if set ~= 'dead' and rec and (state == PENDING or state == nil or (band(state, 7) ~= SUCCEEDED and state > CORRUPT)) then
    dead_letter_corrupt(key, rec, now)
    return 3
  end
  return 2
end

register('audit', audit)
