-- The index by which jobs are found: lists that only grow, and go as a whole.
--
-- `at:<minute>` has the keys (12 bytes) of the jobs that were enqueued in a minute, in their
-- order; `minutes` has those minutes, `hours` the hours of the lists that follow, by when
-- the last of each is over (ms). `x:<hour>:<bucket>` has an entry (key, and 4 bytes of
-- the hash) for each tag of a job, and for its request id where its caller gave one: 4,096
-- buckets an hour by 12 other bits of the hash. A bucket holds many tags, so that a tag of
-- one job costs little more than its entry, where a list or a set of its own costs 136 bytes.
-- Whoever reads it looks at the jobs' own tags.
-- `e:<code>:<time>` has the keys of jobs that ended with an error of a code (its number in
-- records) since then (ms); `errors` has for each code which of these there are, the oldest
-- first. Cancelled and expired jobs and dead letters are written there as they end (common.lua).
--
-- Lists expire with the results of their jobs, and later: tags are asked for of jobs that
-- wait for long.

-- As long as a list of a minute lives where no job has a ttl of its own (a job's ttl and an
-- hour), and how much longer one of tags does, ms.
local USUAL_INDEX_TTL = 7200000
local TAGS_LONGER = 82800000

-- Appends to a list that lives for at least so long.
local function append(name, values, ttl)
  if call('RPUSH', name, unpack(values)) == #values then
    call('PEXPIRE', name, format('%d', ttl))
    return true
  end
  if ttl > USUAL_INDEX_TTL then call('PEXPIRE', name, format('%d', ttl), 'GT') end
  return false
end

-- Writes the new jobs of an enqueue down; `at` is where the entries begin, less one.
local function write_index(argv, at, fresh, placed, now)
  local ttl, minute = tonumber(argv[10]), format('%d', math.floor(now / 60000000))
  if append(base .. 'at:' .. minute, fresh, ttl) then
    call('ZADD', base .. 'minutes', minute, minute)
    -- Two go for one that comes.
    for _, old in ipairs(call('ZRANGE', base .. 'minutes', 0, 1)) do
      if call('EXISTS', base .. 'at:' .. old) == 0 then call('ZREM', base .. 'minutes', old) end
    end
  end
  if not placed then return end
  local hour = format('%d', math.floor(now / 3600000000))
  for entry = at + 1, at + tonumber(argv[11]) * 3, 3 do
    local key = placed[tonumber(argv[entry])]
    if key then
      local lives = ttl + TAGS_LONGER
      if append(base .. 'x:' .. hour .. ':' .. argv[entry + 1], { key .. argv[entry + 2] }, lives) or ttl > USUAL_INDEX_TTL then
        call('ZADD', base .. 'hours', 'GT', format('%d', now / 1000 + lives), hour)
        call('ZREMRANGEBYSCORE', base .. 'hours', '-inf', format('%d', now / 1000))
      end
    end
  end
end
