-- Enqueues the jobs that arrived together.
-- KEYS[1] base
-- ARGV    1 jobs, 2 specials, 3 aging step us (0 strict), 4 most jobs, 5 most bytes
--         (0: no limit), 6 idempotency ttl ms, 7 sweeper channel prefix, 8 whether the
--         call is repeated (0 or 1), 9 push channel prefix, 10 index ttl ms (0: no index),
--         11 index entries (see index.lua),
--         then per job: key, bytes 0..4 of its record, rank, what follows its times,
--         then per special: index, delay us, deadline us (0: none),
--         idempotency hash ('' none), fingerprint (16 bytes) and tombstone expiry (4),
--         then per index entry: index, bucket, check (4 bytes)
-- result  what was not plainly accepted: index, verdict, detail, ...
--         verdicts: full (retry after, ms), duplicate (tombstone expiry and key), mismatch;
--         an idempotency key whose job has left no record names nothing;
--         at last, in a call that is not repeated: 0, at, when the first accepted job was
--         created, us; the others follow on it one by one
-- Atomic: a job is in the queue (or leased) with its record and its idempotency key, or not
-- at all. In a repeated call, a key that exists already was enqueued by an earlier
-- try whose reply was lost: accepted, and nothing is written.

local HEAD, EACH = 11, 4

-- Milliseconds until a tenth of the limit is free again, at the measured rate.
local function retry_after(rate, max_jobs, waiting)
  if not rate or rate <= 0 then return 5000 end
  local over = 1
  if max_jobs > 0 then over = math.max(1, waiting - max_jobs * 0.9) end
  return math.floor(math.min(math.max(over / rate * 1000, 100), 60000))
end

local function except(out, index, verdict, detail)
  local o = #out
  out[o + 1], out[o + 2], out[o + 3] = index, verdict, detail
end

-- What a job will count for at most, as `cost` of its record: a large payload
-- travels beside.
local function size(flags, rest)
  local head = header_at(band(flags, 255 - TIMES)) - 12
  head = head + byte(rest, head)
  local payload = unpack_at('<I4', rest, head - 3)
  if band(flags, TAGS) ~= 0 then head = head + 2 + unpack_at('<I2', rest, head + 1) end
  return 28 + head + payload
end

-- Leases all of these jobs to one consumer that waits, if nothing is ahead of them,
-- and pushes them to it: one wake-up and no call of its own until they ran. Whoever
-- gets no such message (it died, or its connection did) is not noted any more.
local function push_to_waiting(push_channel, adds, sets, added, sorted, now)
  if call('EXISTS', base .. 'ready') == 1 then return false end
  for _ = 1, 3 do
    local member = call('SPOP', base .. 'parked')
    if not member then return false end
    local lease, room = unpack_at('<dI2', member, 17)
    if added > room then
      call('SADD', base .. 'parked', member)
      return false
    end
    local token, order = sub(member, 9, 16), nil
    if not sorted then
      order = {}
      for i = 1, added do order[i] = i end
      table.sort(order, function(a, b) return tonumber(adds[a * 2 - 1]) < tonumber(adds[b * 2 - 1]) end)
    end
    local frames, leases, f = { token, pack('<d', now) }, {}, 2
    for place = 1, added do
      local i = order and order[place] or place
      local key, rec = adds[i * 2], sets[i * 2]
      frames[f + 1], frames[f + 2], frames[f + 3] = key, pack('<I4', #rec), rec
      leases[place * 2 - 1], leases[place * 2] = format('%d', now + lease + place), token .. key
      f = f + 3
    end
    if call('PUBLISH', push_channel .. sub(member, 1, 8), table.concat(frames)) > 0 then
      call('ZADD', base .. 'leases', unpack(leases))
      call('ZADD', base .. 'took', leases[1], 'h' .. sub(member, 1, 8))
      return true
    end
  end
  return false
end

local function enqueue(KEYS, ARGV)
  start(KEYS)
  local n, m, step = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
  local max_jobs, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
  local again = ARGV[8] == '1'

  local special
  if m > 0 then
    special = {}
    for s = 1, m do
      local at = HEAD + n * EACH + (s - 1) * 5
      special[tonumber(ARGV[at + 1])] = { tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), ARGV[at + 4], ARGV[at + 5] }
    end
  end

  local now = now_us()
  local meta = call('HMGET', base .. 'meta', 'last', 'seq', 'bytes', 'enq', 'paused', 'rate')
  local last, seq, bytes = tonumber(meta[1]) or 0, tonumber(meta[2]) or 0, tonumber(meta[3]) or 0
  if special and last > now + JITTER then check_silence(now, tonumber(call('HGET', base .. 'meta', 'swept')) or 0, math.huge) end
  local waiting = 0
  if max_jobs > 0 then
    waiting = call('ZCARD', base .. 'ready') + call('ZCARD', base .. 'sched')
  end

  local out, adds, sets, first_due, added = {}, {}, {}, nil, 0
  -- Whether the scores of `adds` rise, as those of one rank do.
  local sorted, highest = true, -math.huge
  -- The last job's first bytes and the flags in them: most have the same.
  local known_first, flags
  local s, a = 0, 0
  -- The keys of the new jobs, for the index, and by place where one has entries in it.
  local fresh = ARGV[10] ~= '0' and {}
  local placed = fresh and ARGV[11] ~= '0' and {}
  -- Keys that this call gave to jobs whose records it has yet to write.
  local given
  for index = 1, n do
    local at = HEAD + (index - 1) * EACH
    local key, first, rank, rest = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
    if first ~= known_first then known_first, flags = first, byte(first, 4) end
    local own = special and special[index]
    local accepted = true
    if max_jobs > 0 and waiting >= max_jobs or max_bytes > 0 and bytes + size(flags, rest) > max_bytes then
      -- A repeated try of a job that is in already is not refused.
      accepted = again and call('EXISTS', base .. key) == 1
      if not accepted then except(out, index, 'full', retry_after(tonumber(meta[6]), max_jobs, waiting)) end
    end
    if accepted and own and own[3] ~= '' then
      local known = call('GET', base .. 'i:' .. own[3])
      -- A key lives no longer than the record of its job.
      if known and not (given and given[own[3]]) and call('EXISTS', base .. sub(known, 21)) == 0 then known = false end
      if not known then
        call('SET', base .. 'i:' .. own[3], own[4] .. key, 'PX', ARGV[6])
        given = given or {}
        given[own[3]] = true
      elseif sub(known, 21) ~= key then
        accepted = false
        if sub(known, 1, 16) == sub(own[4], 1, 16) then
          except(out, index, 'duplicate', sub(known, 17))
        else
          except(out, index, 'mismatch', '')
        end
      end
    end
    if accepted then
      local position = last + 1
      if position < now then position = now end
      -- Timers go by the clock: the position runs ahead of one that was set back.
      local queued, due, passes = position, nil, nil
      if own then
        if own[1] > 0 then
          due = now + own[1]
          queued = position + own[1]
        end
        if own[2] > 0 then
          passes = now + own[2]
          rest = dated(rest, flags, passes)
        end
      end
      local score = queued
      if step == 0 then
        score = (255 - rank) * STRICT_SPAN + seq + 1
      elseif rank ~= '0' then
        score = queued - rank * step
      end
      local rec
      if score == position and not due then
        rec = first .. pack('<d', position) .. rest
      else
        rec = begin(PENDING, 0, 0, flags, position, queued, score) .. rest
      end
      local blob = flags % 4 >= BLOB
      local new = true
      if again then
        new = call('SET', base .. key, rec, 'NX')
      else
        sets[s + 1], sets[s + 2] = base .. key, rec
        s = s + 2
      end
      if new then
        last, seq, added, waiting = position, seq + 1, added + 1, waiting + 1
        bytes = bytes + (blob and cost(rec) or #rec)
        if fresh then fresh[added] = key end
        if placed then placed[index] = key end
        if passes then
          call('ZADD', base .. 'due', passes, key)
          if not first_due or passes < first_due then first_due = passes end
        end
        if blob then call('PERSIST', base .. key .. ':in') end
        if due then
          call('ZADD', base .. 'sched', due, key)
          if not first_due or due < first_due then first_due = due end
        else
          if score < highest then sorted = false end
          highest = score
          adds[a + 1], adds[a + 2] = format('%d', score), key
          a = a + 2
        end
      elseif blob and call('GETRANGE', base .. key, 0, 0) == char(PENDING) then
        -- The repeat has put the payload there again, with a ttl.
        call('PERSIST', base .. key .. ':in')
      end
    end
  end

  if #sets > 0 then call('MSET', unpack(sets)) end
  local plain = not again and m == 0 and added > 0 and #adds == added * 2 and meta[5] ~= '1'
  local pushed = plain and push_to_waiting(ARGV[9], adds, sets, added, sorted, now)
  if pushed then bytes = tonumber(meta[3]) or 0 end
  if added > 0 then
    -- Redis would write each of them as a fraction first.
    local accepted = format('%d', (tonumber(meta[4]) or 0) + added)
    call('HSET', base .. 'meta', 'last', format('%d', last), 'seq', format('%d', seq), 'bytes', format('%d', bytes), 'enq', accepted)
  end
  if #adds > 0 and not pushed then
    call('ZADD', base .. 'ready', unpack(adds))
    if meta[5] ~= '1' then call('ZADD', base .. 'marker', 0, '0') end
  end
  if fresh and added > 0 then write_index(ARGV, HEAD + n * EACH + m * 5, fresh, placed, now) end
  if first_due then wake_sweeper(ARGV[7], first_due) end
  if added > 0 and not again then except(out, 0, 'at', last - added + 1) end
  return out
end

-- Refused when the server is out of memory.
register('enqueue', enqueue, {})
