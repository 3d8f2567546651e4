-- The settlements of a step: which of them count, and what becomes of their jobs.

-- The names of a queue's keys, made once while one queue is called again and again.
local NAMES = { 'meta', 'leases', 'ready', 'marker', 'watch', 'cx', 'due', 'sched', 'took' }
local own = {}

local function name_keys()
  if own.base == base then return end
  own = { base = base }
  for _, name in ipairs(NAMES) do own[name] = base .. name end
end

-- Where the arguments of a settlement begin, less one.
local function success_at(ask, index) return ask.head + (index - 1) * 4 end
local function other_at(ask, index) return ask.head + ask.successes * 4 + (index - 1) * 5 end

-- Whether a settlement was made by the first try of this very call.
local function done_before(ask, index, member)
  local rec = read(sub(member, 9))
  if index <= ask.successes then return rec == ask.argv[success_at(ask, index) + 4] end
  if ask.argv[other_at(ask, index - ask.successes) + 2] == 'R' then return true end
  return settled_under(rec) == sub(member, 1, 8)
end

-- Writes the results of the jobs that succeeded, and publishes them: once per client.
local function settle_successes(ask, members, held)
  local argv = ask.argv
  -- Most have the same ttl, and many the same length.
  local plain_ttl, last_len, packed_len
  local client, frames, f = '', {}, 0
  for index = 1, ask.successes do
    if held[index] then
      local at = success_at(ask, index)
      local key, ttl, to, rec = sub(members[index], 9), argv[at + 2], argv[at + 3], argv[at + 4]
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
      if awaited then notify_waiters(key, rec) end
      held[index] = false
    end
  end
  if f > 0 then call('PUBLISH', channel .. client, table.concat(frames, '', 1, f)) end
end

-- Puts a failed job's new record and place into `again`, which is written all together.
-- Thousands fail at once when a dependency does: each string is made once.
local function retry(ask, at, member, rec, body, again)
  local key, code, message = sub(member, 9), tonumber(ask.argv[at + 4]), ask.argv[at + 5]
  local attempts, deaths, flags = byte(rec, 2, 4)
  local due = ask.now + tonumber(ask.argv[at + 3])
  local created, queued, score = times_of(rec)
  -- Under aging its place is that of its due time; under strict its old one.
  if ask.aging ~= '0' then score = due - (queued - score) end
  if attempts < 255 then attempts = attempts + 1 end
  local first, from = begin(PENDING, attempts, deaths, bor(flags, TAIL), created, due, score), after_times(flags)
  local s = #again.sets
  again.sets[s + 1] = base .. key
  again.sets[s + 2] = first .. sub(rec, from, body) .. sub(member, 1, 8) .. pack('<I1dI2', code, ask.now, #message) .. message
  if flags % 2 == DEADLINE then call('ZADD', own.due, deadline_of(rec), key) end
  bytes_added = bytes_added + #first + body - from + 1
  if flags % 4 >= BLOB then bytes_added = bytes_added + payload_len(rec) end
  if due > ask.now then
    local d = #again.scheds
    again.scheds[d + 1], again.scheds[d + 2] = format('%d', due), key
    if not again.first_due or due < again.first_due then again.first_due = due end
  else
    call('ZADD', own.ready, score, key)
  end
end

-- Settles the jobs that did not succeed. They are read, and those that run again
-- written, in one command each: a storm of retries must not keep others waiting.
local function settle_others(ask, members, held)
  if ask.others == 0 then return end
  local names = {}
  for index = 1, ask.others do names[index] = base .. sub(members[ask.successes + index], 9) end
  local records = call('MGET', unpack(names))
  local again = { sets = {}, scheds = {} }
  for index = 1, ask.others do
    local place, at = ask.successes + index, other_at(ask, index)
    local member, what = members[place], ask.argv[at + 2]
    local rec = held[place] and records[index]
    local body = sound(rec)
    if body and what == 'F' then
      retry(ask, at, member, rec, body, again)
    elseif body and what == 'R' then
      requeue(sub(member, 9), rec, ask.now)
    elseif body then
      local by, code, message = sub(member, 1, 8), tonumber(ask.argv[at + 4]), ask.argv[at + 5]
      rec = char(PENDING, math.min(byte(rec, 2) + 1, 255)) .. sub(rec, 3)
      if what == 'D' then
        dead_letter(sub(member, 9), rec, by, code, message, ask.now)
      else
        finish(sub(member, 9), rec, EXPIRED, by, code, message, ask.now)
      end
    elseif rec and byte(rec, 1) == PENDING then
      dead_letter_corrupt(sub(member, 9), rec, ask.now)
    end
    -- Those that run again are written below, all together.
    if what ~= 'F' then held[place] = false end
  end
  if #again.sets > 0 then call('MSET', unpack(again.sets)) end
  if #again.scheds > 0 then call('ZADD', own.sched, unpack(again.scheds)) end
  if again.first_due then wake_sweeper(ask.sweeper_channel, again.first_due) end
end

local function write_settlements(ask, members, held)
  settle_successes(ask, members, held)
  settle_others(ask, members, held)
end

-- Settles what the call brings under leases that are held; the indices of what is not
-- settled go into `refused`.
local function settle(ask, refused, cancelled)
  local members, total = {}, ask.successes + ask.others
  for index = 1, ask.successes do members[index] = ask.argv[success_at(ask, index) + 1] end
  for index = 1, ask.others do members[ask.successes + index] = ask.argv[other_at(ask, index) + 1] end
  local held
  if total == 1 then
    held = { call('ZREM', own.leases, members[1]) == 1 }
  else
    held = call('ZMSCORE', own.leases, unpack(members))
    call('ZREM', own.leases, unpack(members))
  end
  for index = 1, total do
    local member = members[index]
    if not held[index] then
      if ask.again == 0 or not done_before(ask, index, member) then
        refused[#refused + 1] = index
        undo_death(member)
      end
    elseif cancelled and call('SREM', own.cx, sub(member, 9)) == 1 then
      held[index] = false
      refused[#refused + 1] = index
    end
  end

  local ok, failure = pcall(write_settlements, ask, members, held)
  if not ok then
    -- What is not settled is leased as before: no job is lost with another one.
    local back = {}
    for index = 1, total do
      if held[index] then back[#back + 1], back[#back + 2] = format('%d', ask.now + ask.lease), members[index] end
    end
    if #back > 0 then call('ZADD', own.leases, unpack(back)) end
    error(failure, 0)
  end
end
