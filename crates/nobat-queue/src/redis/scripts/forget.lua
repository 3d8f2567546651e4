-- Forgets workers whose registration ran out.
-- KEYS[1] the registry
-- ARGV    id and registration of each, as they were read
-- result  how many of them went
-- Atomic: one that has registered again since it was read stays.

local function forget(KEYS, ARGV)
  start(KEYS)
  local went = 0
  for at = 1, #ARGV, 2 do
    if call('HGET', base, ARGV[at]) == ARGV[at + 1] then went = went + call('HDEL', base, ARGV[at]) end
  end
  return went
end

register('forget', forget)
