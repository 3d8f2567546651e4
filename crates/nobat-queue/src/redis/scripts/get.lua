-- Reads a job.
-- KEYS[1] base
-- ARGV    1 key
-- result  nil, or its record and where a pending one stands: q ready,
--         s scheduled, l leased
-- Atomic: record and place belong together.

local function get(KEYS, ARGV)
  start(KEYS)
  local rec = read(ARGV[1])
  if not rec then return false end
  if byte(rec, 1) ~= PENDING then return { rec, '' } end
  if call('ZSCORE', base .. 'ready', ARGV[1]) then return { rec, 'q' } end
  if call('ZSCORE', base .. 'sched', ARGV[1]) then return { rec, 's' } end
  return { rec, 'l' }
end

-- Answers also where writes are refused: a full disk, too few replicas.
register('get', get, { 'no-writes', 'allow-oom' })
