-- What every function shares (the constants in capitals are made by scripts.rs): short names, the clock, the record's layout (see
-- record.rs), and how a job ends. The library's first part: what stands here is made
-- once, when the library is loaded, and not by each call.
-- KEYS[1] is the queue's base; every other key is derived from it.

-- Bound by the first call: while a library is loaded the server shows it none of these.
local call, byte, sub, char, format
local pack, unpack_at, band, bor, unpack, tonumber
local base

-- No record is shorter: one time, no client, and a header of its payload's length.
local SHORTEST = 21

-- Set by a function that ends jobs: the clients' channel prefix, what dead letters
-- get, and whether anybody waits for another client's job.
local channel, max_dead, dead_ttl, awaited
-- What the call changed: waiting bytes, jobs ended for good, and those of them
-- that were cancelled or expired.
local bytes_added, ended, dropped = 0, 0, 0
-- Dead letters it made: their times and keys.
local dead_letters = {}
-- Whether the function tells the index of jobs that end with an error, and by their codes those
-- it ended: { keys, and the longest that one of them is kept, ms }.
local indexes, errors = false, {}

-- Opens a call: nothing is left of the one before, which may have failed midway.
local function start(keys)
  if not call then
    call, byte, sub, char, format = redis.call, string.byte, string.sub, string.char, string.format
    pack, unpack_at, band, bor = struct.pack, struct.unpack, bit.band, bit.bor
    unpack, tonumber = _G.unpack, _G.tonumber
  end
  base = keys[1]
  bytes_added, ended, dropped, awaited, indexes = 0, 0, 0, false, false
  if next(errors) then errors = {} end
  if #dead_letters > 0 then dead_letters = {} end
end

-- Makes a function callable. Renewing, settling and ending jobs goes on when the
-- server is out of memory: most of it frees some.
local function register(name, callback, flags)
  redis.register_function({
    function_name = LIBRARY .. '_' .. name, callback = callback, flags = flags or { 'allow-oom' },
  })
end

local function now_us()
  local t = call('TIME')
  return t[1] * 1000000 + t[2]
end

-- A job's record, or false: a key of another type reads as missing.
local function read(key)
  return call('MGET', base .. key)[1]
end

-- Where what follows the times begins.
local function after_times(flags)
  return band(flags, TIMES) ~= 0 and 29 or 13
end

-- Where the header's length stands; the ttl is the four bytes before it.
local function header_at(flags)
  return after_times(flags) + (band(flags, REPLY) ~= 0 and 12 or 4)
end

-- Where the header ends.
local function header_end(rec)
  local at = header_at(byte(rec, 4))
  return at + (byte(rec, at) or 255)
end

-- Where the header ends, and the tags if there are any: the payload follows.
local function head_len(rec)
  local at = header_end(rec)
  if band(byte(rec, 4), TAGS) == 0 then return at end
  return at + 2 + unpack_at('<I2', rec, at + 1)
end

-- When it was created and queued, and its score.
local function times_of(rec)
  if band(byte(rec, 4), TIMES) ~= 0 then return unpack_at('<ddd', rec, 5) end
  local time = unpack_at('<d', rec, 5)
  return time, time, time
end

-- The first bytes of a record: of its times, one stands for all that are alike.
local function begin(state, attempts, deaths, flags, created, queued, score)
  if created == queued and queued == score then
    return char(state, attempts, deaths, band(flags, 255 - TIMES)) .. pack('<d', created)
  end
  return char(state, attempts, deaths, bor(flags, TIMES)) .. pack('<ddd', created, queued, score)
end

local function deadline_of(rec)
  return (unpack_at('<d', rec, header_at(byte(rec, 4)) + 1))
end

-- What follows the times, with another deadline.
local function dated(rest, flags, deadline)
  local at = band(flags, REPLY) ~= 0 and 14 or 6
  return sub(rest, 1, at - 1) .. pack('<d', deadline) .. sub(rest, at + 8)
end

-- The client that waits for a job which has the flag REPLY.
local function client_of(rec)
  local at = after_times(byte(rec, 4))
  return sub(rec, at, at + 7)
end

local function payload_len(rec)
  return (unpack_at('<I4', rec, header_end(rec) - 3))
end

-- Bytes a job counts for while it waits: the same number whatever its tail.
local function cost(rec)
  return head_len(rec) + payload_len(rec)
end

-- Where an inline payload ends.
local function body_len(rec)
  if band(byte(rec, 4), BLOB + STRIPPED) ~= 0 then return head_len(rec) end
  return head_len(rec) + payload_len(rec)
end

-- Whether a record without a result is whole enough to be taken apart: where its
-- inline payload ends, or false.
local function whole(rec)
  if not rec or #rec < SHORTEST then return false end
  local flags = byte(rec, 4)
  local at = header_at(flags)
  local length = byte(rec, at)
  if not length or length < (flags % 2 == DEADLINE and 12 or 4) or #rec < at + length then return false end
  local body = at + length
  local payload = band(flags, BLOB + STRIPPED) == 0 and unpack_at('<I4', rec, body - 3) or 0
  if band(flags, TAGS) ~= 0 then
    if #rec < body + 2 then return false end
    body = body + 2 + unpack_at('<I2', rec, body + 1)
  end
  body = body + payload
  return #rec >= body and body
end

-- As `whole`, of a record that is pending and may be patched.
local function sound(rec)
  return rec and byte(rec, 1) == PENDING and whole(rec)
end

-- The lease under which a job that has no result was settled last, or nil. A result
-- is packed in another way, and whatever its bytes are, they name no lease.
local function settled_under(rec)
  local state = rec and byte(rec, 1)
  if state ~= PENDING and state ~= DEAD and state ~= CANCELLED and state ~= EXPIRED then return nil end
  local body = whole(rec)
  if not body or band(byte(rec, 4), TAIL) == 0 then return nil end
  return sub(rec, body + 1, body + 8)
end

local function tail(token, code, message, now)
  return token .. char(code) .. pack('<d', now) .. pack('<I2', #message) .. message
end

local function frame(key, rec)
  return key .. pack('<I4', #rec) .. rec
end

-- Tells the clients that wait for `key` what became of it.
local function notify_waiters(key, rec)
  local clients = call('HGET', base .. 'watch', key)
  if not clients then return end
  call('HDEL', base .. 'watch', key)
  for at = 1, #clients, 8 do
    call('PUBLISH', channel .. sub(clients, at, at + 7), frame(key, rec))
  end
end

local function notify(key, rec)
  if band(byte(rec, 4), REPLY) ~= 0 then
    call('PUBLISH', channel .. client_of(rec), frame(key, rec))
  end
  if awaited then notify_waiters(key, rec) end
end

-- The record of a job that ended without a result: no payload, a tail.
local function stripped(rec, state, tail_bytes)
  local flags = bor(byte(rec, 4), TAIL + STRIPPED)
  return char(state, byte(rec, 2), byte(rec, 3), flags) .. sub(rec, 5, head_len(rec)) .. tail_bytes
end

-- Notes that a job ended with an error and is kept for so long.
local function note_error(key, code, ttl)
  if not indexes then return end
  local noted = errors[code]
  if not noted then
    noted = { keys = {}, ttl = 0 }
    errors[code] = noted
  end
  noted.keys[#noted.keys + 1] = key
  noted.ttl = math.max(noted.ttl, ttl)
end

-- Ends a job as cancelled or expired, readable for its result's ttl.
local function finish(key, rec, state, token, code, message, now)
  local out = stripped(rec, state, tail(token, code, message, now))
  local ttl = format('%d', (unpack_at('<f', rec, header_at(byte(rec, 4)) - 4)))
  call('SET', base .. key, out, 'PX', ttl)
  if band(byte(rec, 4), BLOB) ~= 0 then call('UNLINK', base .. key .. ':in') end
  note_error(key, code, tonumber(ttl))
  ended, dropped = ended + 1, dropped + 1
  notify(key, out)
end

-- Keeps a job as a dead letter, payload included, so that it can be redriven.
local function dead_letter(key, rec, token, code, message, now)
  local tail_bytes = tail(token, code, message, now)
  local flags = bor(byte(rec, 4), TAIL)
  local out = char(DEAD, byte(rec, 2), byte(rec, 3), flags) .. sub(rec, 5, body_len(rec)) .. tail_bytes
  call('SET', base .. key, out, 'PX', dead_ttl)
  if band(flags, BLOB) ~= 0 then call('PEXPIRE', base .. key .. ':in', dead_ttl) end
  dead_letters[#dead_letters + 1], dead_letters[#dead_letters + 2] = format('%d', now), key
  note_error(key, code, tonumber(dead_ttl))
  ended = ended + 1
  if awaited or band(flags, REPLY) ~= 0 then notify(key, stripped(rec, DEAD, tail_bytes)) end
end

-- Keeps what cannot be read among the dead letters, as it is but for its state.
local function dead_letter_corrupt(key, rec, now)
  call('SETRANGE', base .. key, 0, char(CORRUPT))
  call('ZADD', base .. 'dead', now, key)
  call('PEXPIRE', base .. key, dead_ttl)
  ended = ended + 1
  if #rec >= SHORTEST then notify(key, char(CORRUPT) .. sub(rec, 2)) end
end

-- Puts a job back among the ready at the place its record names.
local function requeue(key, rec, now)
  if band(byte(rec, 4), DEADLINE) ~= 0 then
    local deadline = deadline_of(rec)
    if deadline <= now then
      return finish(key, rec, EXPIRED, '\0\0\0\0\0\0\0\0', CODE_DEADLINE, 'the deadline passed before the job ran; allow more time or add workers', now)
    end
    call('ZADD', base .. 'due', deadline, key)
  end
  local _, _, score = times_of(rec)
  call('ZADD', base .. 'ready', score, key)
  bytes_added = bytes_added + cost(rec)
end

-- Files the dead letters that the call made, and drops the oldest over the cap: in
-- a command each, because thousands fail at once when a dependency does.
local function file_dead()
  if #dead_letters == 0 then return end
  call('ZADD', base .. 'dead', unpack(dead_letters))
  local over = call('ZCARD', base .. 'dead') - max_dead
  if over <= 0 then return end
  local old = call('ZRANGE', base .. 'dead', 0, math.min(over, #dead_letters + 100) - 1)
  call('ZREM', base .. 'dead', unpack(old))
  local names = {}
  for at = 1, #old do names[at * 2 - 1], names[at * 2] = base .. old[at], base .. old[at] .. ':in' end
  call('UNLINK', unpack(names))
end

-- Tells the index of the jobs that the call ended with an error (see index.lua): a list for so
-- many of a code, and of the lists the newest. So the newest jobs of each code are found,
-- and what is kept of a storm of errors is bounded.
local function file_errors()
  for code, noted in pairs(errors) do
    local lists = {}
    for at in string.gmatch(call('HGET', base .. 'errors', code) or '', '%d+') do lists[#lists + 1] = at end
    local newest = lists[#lists]
    if not newest or call('LLEN', base .. 'e:' .. code .. ':' .. newest) >= ERRORS_A_LIST then
      newest = format('%d', math.max(math.floor(now_us() / 1000), (tonumber(newest) or 0) + 1))
      lists[#lists + 1] = newest
      while #lists > ERROR_LISTS do call('UNLINK', base .. 'e:' .. code .. ':' .. table.remove(lists, 1)) end
      call('HSET', base .. 'errors', code, table.concat(lists, ' '))
    end
    local name, ttl = base .. 'e:' .. code .. ':' .. newest, format('%d', noted.ttl)
    if call('RPUSH', name, unpack(noted.keys)) == #noted.keys then
      call('PEXPIRE', name, ttl)
    else
      call('PEXPIRE', name, ttl, 'GT')
    end
  end
end

-- Writes down what the call changed, for a function that changes little.
local function account()
  file_dead()
  file_errors()
  if bytes_added ~= 0 then call('HINCRBY', base .. 'meta', 'bytes', format('%d', bytes_added)) end
  if ended ~= 0 then call('HINCRBY', base .. 'meta', 'fin', ended) end
  if dropped ~= 0 then call('HINCRBY', base .. 'meta', 'drop', dropped) end
end

-- Asks the sweeper to come earlier than it planned.
local function wake_sweeper(sweeper_channel, due)
  local sweeper = call('GET', base .. 'keeper')
  if sweeper and due < tonumber(sub(sweeper, 9)) then
    call('PUBLISH', sweeper_channel .. sub(sweeper, 1, 8), base)
  end
end
