-- Cancels jobs.
-- KEYS[1] base
-- ARGV    1 'any', or 'waiting' to leave leased jobs alone and those that
--         another client waits for, 2 client channel prefix, 3 whether the
--         index is told (0 or 1), then their keys
-- result  per key: false when there is no record, 0 when it was left alone, 1 and
--         its record when this call cancelled it, 2 and its record when it had ended
-- Atomic: a waiting job leaves the order and ends; a leased one ends at once and
-- is remembered in `cx`, so that its worker's settle is refused.

local function cancel(KEYS, ARGV)
  start(KEYS)
  channel, indexes = ARGV[2], ARGV[3] == '1'
  awaited = call('EXISTS', base .. 'watch') == 1
  local now, out = now_us(), {}
  for i = 4, #ARGV do
    local key = ARGV[i]
    local rec = read(key)
    local verdict, record = false, ''
    if rec then
      if not sound(rec) then
        verdict, record = 2, rec
      elseif ARGV[1] ~= 'any' and awaited and call('HEXISTS', base .. 'watch', key) == 1 then
        verdict = 0
      else
        local waiting = call('ZREM', base .. 'ready', key) + call('ZREM', base .. 'sched', key)
        if waiting > 0 then
          bytes_added = bytes_added - cost(rec)
          call('ZREM', base .. 'due', key)
        elseif ARGV[1] == 'any' then
          call('SADD', base .. 'cx', key)
        end
        if waiting > 0 or ARGV[1] == 'any' then
          finish(key, rec, CANCELLED, '\0\0\0\0\0\0\0\0', CODE_CANCELLED, 'the job was cancelled', now)
          verdict, record = 1, read(key)
        else
          verdict = 0
        end
      end
    end
    out[#out + 1] = verdict
    out[#out + 1] = record
  end
  account()
  return out
end

register('cancel', cancel)
