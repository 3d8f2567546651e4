-- Renews leases.
-- KEYS[1] base
-- ARGV    1 lease us, then token + key per lease
-- result  one character per lease: 1 renewed, 0 lost
-- Fenced: only the exact lease that is held, and not of a cancelled job. Whoever asks
-- lives: the death that a lost lease counted is taken back.
-- Leases stay in the order they are given in, a microsecond apart (see step).

local function renew(KEYS, ARGV)
  start(KEYS)
  local expiry = now_us() + ARGV[1]
  local members = {}
  for i = 2, #ARGV do members[i - 1] = ARGV[i] end
  local held = call('ZMSCORE', base .. 'leases', unpack(members))
  local cancelled = call('EXISTS', base .. 'cx') == 1
  local adds, out = { 'XX' }, {}
  for i, member in ipairs(members) do
    if held[i] and not (cancelled and call('SISMEMBER', base .. 'cx', sub(member, 9)) == 1) then
      adds[#adds + 1] = format('%d', expiry + i)
      adds[#adds + 1] = member
      out[i] = '1'
    else
      out[i] = '0'
      if not held[i] then undo_death(member) end
    end
  end
  if #adds > 1 then call('ZADD', base .. 'leases', unpack(adds)) end
  return table.concat(out)
end

register('renew', renew)
