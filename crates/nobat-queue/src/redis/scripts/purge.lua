-- Deletes dead letters for good.
-- KEYS[1] base
-- ARGV    1 how many of the oldest when no keys follow, then their keys
-- result  how many went
-- Atomic.

local function purge(KEYS, ARGV)
  start(KEYS)
  local keys, went = {}, 0
  for i = 2, #ARGV do keys[i - 1] = ARGV[i] end
  if #keys == 0 then keys = call('ZRANGE', base .. 'dead', 0, tonumber(ARGV[1]) - 1) end
  for _, key in ipairs(keys) do
    if call('ZREM', base .. 'dead', key) == 1 then
      call('UNLINK', base .. key, base .. key .. ':in')
      went = went + 1
    end
  end
  return went
end

register('purge', purge)
