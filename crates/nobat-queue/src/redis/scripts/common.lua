-- What every script shares: short names, the clock, the record's layout (see
-- record.rs), and how a job ends. Prepended to each script when it is loaded.
-- KEYS[1] is the queue's base; every other key is derived from it.

local call, byte, sub, char = redis.call, string.byte, string.sub, string.char
local pack, unpack_at, band, bor = struct.pack, struct.unpack, bit.band, bit.bor
local base = KEYS[1]

local DEADLINE, BLOB, REPLY, TAIL, STRIPPED = 1, 2, 4, 8, 16
local PENDING, DEAD, CANCELLED, EXPIRED, CORRUPT = 1, 3, 4, 5, 6

-- Set by a script that ends jobs: the lanes' channel prefix, what dead letters
-- get, and whether anybody waits for another lane's job.
local channel, max_dead, dead_ttl, watching
-- What the script changed: waiting bytes, jobs ended for good, and those of them
-- that were cancelled or expired.
local bytes_added, ended, dropped = 0, 0, 0

local function now_us()
  local t = call('TIME')
  return t[1] * 1000000 + t[2]
end

-- A job's record, or false: a key of another type reads as missing.
local function read(key)
  return call('MGET', base .. key)[1]
end

local function head_len(rec)
  return 41 + byte(rec, 41)
end

local function payload_len(rec)
  return (unpack_at('<I4', rec, head_len(rec) - 3))
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

-- Whether a pending record is whole enough to be patched.
local function sound(rec)
  if not rec or #rec < 45 or byte(rec, 1) ~= PENDING then return false end
  local head = head_len(rec)
  return head >= 45 and #rec >= head and #rec >= body_len(rec)
end

local function tail(token, code, message, now)
  return token .. char(code) .. pack('<d', now) .. pack('<I2', #message) .. message
end

local function frame(key, rec)
  return key .. pack('<I4', #rec) .. rec
end

-- Tells the lanes that wait for `key` what became of it.
local function notify_watchers(key, rec)
  local lanes = call('HGET', base .. 'watch', key)
  if not lanes then return end
  call('HDEL', base .. 'watch', key)
  for at = 1, #lanes, 8 do
    call('PUBLISH', channel .. sub(lanes, at, at + 7), frame(key, rec))
  end
end

local function notify(key, rec)
  if band(byte(rec, 4), REPLY) ~= 0 then
    call('PUBLISH', channel .. sub(rec, 29, 36), frame(key, rec))
  end
  if watching then notify_watchers(key, rec) end
end

-- The record of a job that ended without a result: no payload, a tail.
local function stripped(rec, state, tail_bytes)
  local flags = bor(byte(rec, 4), TAIL + STRIPPED)
  return char(state, byte(rec, 2), byte(rec, 3), flags) .. sub(rec, 5, head_len(rec)) .. tail_bytes
end

-- Ends a job as cancelled or expired, readable for its result's ttl.
local function finish(key, rec, state, token, code, message, now)
  local out = stripped(rec, state, tail(token, code, message, now))
  local ttl = string.format('%d', (unpack_at('<f', rec, 37)))
  call('SET', base .. key, out, 'PX', ttl)
  if band(byte(rec, 4), BLOB) ~= 0 then call('UNLINK', base .. key .. ':in') end
  ended, dropped = ended + 1, dropped + 1
  notify(key, out)
end

-- Keeps a job as a dead letter, payload included, so that it can be redriven.
local function bury(key, rec, token, code, message, now)
  local tail_bytes = tail(token, code, message, now)
  local flags = bor(byte(rec, 4), TAIL)
  local out = char(DEAD, byte(rec, 2), byte(rec, 3), flags) .. sub(rec, 5, body_len(rec)) .. tail_bytes
  call('SET', base .. key, out, 'PX', dead_ttl)
  if band(flags, BLOB) ~= 0 then call('PEXPIRE', base .. key .. ':in', dead_ttl) end
  call('ZADD', base .. 'dead', now, key)
  local over = call('ZCARD', base .. 'dead') - max_dead
  if over > 0 then
    for _, old in ipairs(call('ZRANGE', base .. 'dead', 0, math.min(over, 100) - 1)) do
      call('ZREM', base .. 'dead', old)
      call('UNLINK', base .. old, base .. old .. ':in')
    end
  end
  ended = ended + 1
  notify(key, stripped(rec, DEAD, tail_bytes))
end

-- Keeps what cannot be read among the dead letters, as it is but for its state.
local function entomb(key, rec, now)
  call('SETRANGE', base .. key, 0, char(CORRUPT))
  call('ZADD', base .. 'dead', now, key)
  call('PEXPIRE', base .. key, dead_ttl)
  ended = ended + 1
  if #rec >= 45 then notify(key, char(CORRUPT) .. sub(rec, 2)) end
end

-- Puts a job back among the ready at the place its record names.
local function requeue(key, rec, now)
  if band(byte(rec, 4), DEADLINE) ~= 0 then
    local deadline = unpack_at('<d', rec, 42)
    if deadline <= now then
      return finish(key, rec, EXPIRED, '\0\0\0\0\0\0\0\0', CODE_DEADLINE, 'the deadline passed before the job ran; allow more time or add workers', now)
    end
    call('ZADD', base .. 'due', deadline, key)
  end
  call('ZADD', base .. 'ready', (unpack_at('<d', rec, 21)), key)
  bytes_added = bytes_added + cost(rec)
end

-- Writes down what the script changed, for a script that changes little.
local function account()
  if bytes_added ~= 0 then call('HINCRBY', base .. 'meta', 'bytes', string.format('%d', bytes_added)) end
  if ended ~= 0 then call('HINCRBY', base .. 'meta', 'fin', ended) end
  if dropped ~= 0 then call('HINCRBY', base .. 'meta', 'drop', dropped) end
end

-- Asks the timekeeper to look earlier than it planned.
local function nudge(keeper_channel, due)
  local keeper = call('GET', base .. 'keeper')
  if keeper and due < tonumber(sub(keeper, 9)) then
    call('PUBLISH', keeper_channel .. sub(keeper, 1, 8), base)
  end
end
