-- The leases of a step: jobs in their order, and what an earlier call took unseen.

-- Adds the leases of `owner` to the reply: of a call whose reply was lost, or pushed
-- unseen. `took` says when the consumer's last leases end, and nobody renews what
-- nobody knows: they stand where they were put, however many others there are.
local function recover(ask, reply, who, owner, from)
  local expiry = tonumber(call('ZSCORE', base .. 'took', who))
  if not expiry then return end
  local taken = call('ZRANGEBYSCORE', base .. 'leases', expiry, expiry + LEASES_MAX)
  local r = #reply
  for _, member in ipairs(taken) do
    if sub(member, 1, 8) == owner then
      local rec = read(sub(member, 9))
      if rec then
        reply[r + 1], reply[r + 2] = sub(member, from), rec
        r, ask.want = r + 2, ask.want - 1
      end
    end
  end
end

local function recover_unseen(ask, reply)
  if ask.again > 0 then
    if ask.register ~= '' then call('SREM', base .. 'parked', ask.register) end
    recover(ask, reply, ask.name, ask.token, 9)
  end
  if ask.withdraw ~= '' and call('SREM', base .. 'parked', ask.withdraw) == 0 then
    recover(ask, reply, 'h' .. ask.name, sub(ask.withdraw, 9, 16), 1)
  end
end

-- Of a queue's jobs on their last chance one is under lease at a time: whether this one
-- may be leased now. If not it leaves the order for a moment, its place kept.
local function last_chance(ask, key)
  if ask.busy == nil then
    local other = call('HGET', own.meta, 'last_chance')
    ask.busy = other and call('ZSCORE', own.leases, other) or false
  end
  if ask.busy then
    call('ZADD', own.sched, format('%d', ask.now + POSTPONED), key)
    wake_sweeper(ask.sweeper_channel, ask.now + POSTPONED)
    return false
  end
  call('HSET', own.meta, 'last_chance', ask.token .. key)
  return true
end

-- The highest score of what ranks above the level `above`: `Aging::highest_above`.
local function highest_above(ask)
  local step, level = tonumber(ask.aging), tonumber(ask.above)
  if step == 0 then return (255 - level) * STRICT_SPAN end
  -- Positions run ahead of a clock that was set back.
  return math.max(ask.now, tonumber(call('HGET', own.meta, 'last')) or 0) - (level + 1) * step
end

-- The first jobs of the order, those that are asked for.
local function next_keys(ask)
  if ask.above == '' then return call('ZRANGE', own.ready, '0', format('%d', ask.want - 1)) end
  local highest = format('%d', highest_above(ask))
  return call('ZRANGE', own.ready, '-inf', highest, 'BYSCORE', 'LIMIT', '0', format('%d', ask.want))
end

-- Leases up to `want` jobs into the reply; how many keys it looked at, and whether they
-- were all there were.
local function lease(ask, reply)
  local keys = next_keys(ask)
  local found = #keys
  if found == 0 then return 0, ask.above == '' end
  local names = {}
  for i = 1, found do names[i] = base .. keys[i] end
  local records = call('MGET', unpack(names))
  local leases, taken, due = {}, 0, nil
  local token, expiry, r = ask.token, ask.now + ask.lease, #reply
  local count = found
  for i = 1, found do
    local key, rec = keys[i], records[i]
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
    if state == PENDING and deaths >= LAST_CHANCE and not last_chance(ask, key) then state = false end
    if state == PENDING then
      taken = taken + 1
      -- A microsecond apart, so that leases of a dead worker expire, and are
      -- reaped a bounded number a call, in the order they were taken in.
      leases[taken * 2 - 1], leases[taken * 2] = format('%d', expiry + taken), token .. key
      reply[r + 1], reply[r + 2] = key, rec
      r = r + 2
      if flags % 4 < BLOB and flags % 16 < TAIL then
        bytes_added = bytes_added - #rec
      else
        bytes_added = bytes_added - cost(rec)
      end
      if flags % 2 == DEADLINE then
        due = due or {}
        due[#due + 1] = key
      end
      if deaths > 0 then
        count = i
        break
      end
    elseif state and band(state, 7) ~= SUCCEEDED and state ~= DEAD and state ~= CANCELLED and state ~= EXPIRED then
      -- Not a record: dead-lettered alone, its neighbours served.
      dead_letter_corrupt(key, rec, ask.now)
    end
    -- What is left is missing, ended already or postponed: dropped from the order.
  end
  if count > 0 then call('ZREMRANGEBYRANK', own.ready, '0', format('%d', count - 1)) end
  if taken > 0 then
    call('ZADD', own.leases, unpack(leases))
    call('ZADD', own.took, leases[1], ask.name)
  end
  if due then call('ZREM', own.due, unpack(due)) end
  return found, ask.above == '' and found < ask.want and count == found
end
