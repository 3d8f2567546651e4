-- Sends dead letters back to their queue.
-- KEYS[1] base
-- ARGV    1 aging step us (0 strict), 2 how many of the oldest when no keys follow,
--         then their keys
-- result  how many went
-- Atomic. A redriven job forgets its attempts, goes to the end of the order, and
-- has its whole deadline again.

local function redrive(KEYS, ARGV)
  start(KEYS)
  local step, keys = tonumber(ARGV[1]), {}
  for i = 3, #ARGV do keys[i - 2] = ARGV[i] end
  if #keys == 0 then keys = call('ZRANGE', base .. 'dead', 0, tonumber(ARGV[2]) - 1) end
  local now = now_us()
  local meta = call('HMGET', base .. 'meta', 'last', 'seq')
  local last, seq, went = tonumber(meta[1]) or 0, tonumber(meta[2]) or 0, 0
  for _, key in ipairs(keys) do
    local rec = call('ZSCORE', base .. 'dead', key) and read(key)
    if rec and byte(rec, 1) == DEAD and whole(rec) then
      call('ZREM', base .. 'dead', key)
      last, seq, went = math.max(now, last + 1), seq + 1, went + 1
      local created, queued, score = times_of(rec)
      if step > 0 then
        score = last - (queued - score)
      else
        score = math.floor(score / STRICT_SPAN) * STRICT_SPAN + seq
      end
      local flags = band(byte(rec, 4), 255 - TAIL)
      local rest = sub(rec, after_times(flags), body_len(rec))
      if band(flags, DEADLINE) ~= 0 then
        local deadline = now + deadline_of(rec) - created
        rest = dated(rest, flags, deadline)
        call('ZADD', base .. 'due', deadline, key)
      end
      rec = begin(PENDING, 0, 0, flags, last, last, score) .. rest
      call('SET', base .. key, rec)
      if band(flags, BLOB) ~= 0 then call('PERSIST', base .. key .. ':in') end
      call('ZADD', base .. 'ready', score, key)
      bytes_added = bytes_added + cost(rec)
    end
  end
  if went > 0 then
    call('HSET', base .. 'meta', 'last', last, 'seq', seq)
    call('HINCRBY', base .. 'meta', 'bytes', format('%d', bytes_added))
    call('HINCRBY', base .. 'meta', 'fin', -went)
    call('ZADD', base .. 'marker', 0, '0')
  end
  return went
end

register('redrive', redrive)
