-- Takes one request out of a caller's bucket.
-- KEYS[1] the bucket: when it is full again, microseconds of this server's clock
-- ARGV    1 microseconds between two requests, 2 microseconds for all at once; 0: taken
--         however much is owed already
-- result  1 allowed or 0 refused, microseconds until the bucket is full
-- Atomic: all gateways take from one bucket; it goes by itself once it is full.

local function rate(KEYS, ARGV)
  start(KEYS)
  local now = now_us()
  local interval, window = tonumber(ARGV[1]), tonumber(ARGV[2])
  local full = tonumber(call('GET', KEYS[1]) or '0')
  -- A bucket of a rate that was larger before, or of a clock that went back,
  -- refuses for one window at most.
  full = math.max(full, now)
  if window > 0 then full = math.min(full, now + window) end
  local after = full + interval
  if window > 0 and after - now > window then return { 0, full - now } end
  -- A look takes nothing.
  if interval == 0 then return { 1, full - now } end
  call('SET', KEYS[1], format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
  return { 1, after - now }
end

register('rate', rate)
