-- What time does to a queue, at most 100 of each a call: expired leases come
-- back at their old place (or are quarantined), due jobs become ready, waiting
-- jobs past their deadline expire. Before step and tick.
--
-- A step leases after it has reaped, though more may have expired than it could
-- take: healthy jobs do not wait for a dead worker's thousands. Leases are reaped
-- in the order of their expiry, which is the order they were taken (or last
-- renewed) in: a step that wants no more than the limit finds them in turn.

local MAX_DEATHS = 3
-- One more, and it is quarantined: of a queue's such jobs, one at a time is under
-- lease. Those that were at hand each time when another one killed their process
-- would be quarantined with it otherwise.
local LAST_CHANCE = MAX_DEATHS - 1
-- How long one waits, at a time, while another one runs, us.
local POSTPONED = 50000

local function reap(now, most)
  local members = call('ZRANGEBYSCORE', base .. 'leases', '-inf', now, 'LIMIT', 0, most)
  if #members == 0 then return 0 end
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
          bury(key, rec, sub(member, 1, 8), CODE_FAILED, deaths .. ' workers died while running this job; it is quarantined, look at its input before it is redriven', now)
        else
          call('SETRANGE', base .. key, 1, char(attempts, deaths))
          requeue(key, rec, now)
        end
      elseif rec and byte(rec, 1) == PENDING then
        entomb(key, rec, now)
      end
    end
  end
  return #members
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
    if rec and #rec >= SHORTEST then
      local _, _, score = times_of(rec)
      adds[#adds + 1] = format('%d', score)
      adds[#adds + 1] = keys[i]
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
