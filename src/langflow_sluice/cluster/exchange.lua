-- One process's exchange with the cluster about one guard: what it has given back, what it wants, what it has learnt;
-- and what it may start now. Entering and leaving are both this script: one atomic call, on Redis's own clock, that
-- may be sent twice without harm, since counts are totals since the process joined and events carry a number.
--
-- KEYS, all with one hash tag: 1 state (hash: the guard's under "", each process's under its name), 2 leases (sorted
--   set, by end), 3 join order (sorted set), 4 to 6 processes that wait (sorted sets, one for each lane, by turn).
-- ARGV: 1 process, 2 guard, 3 what channels' names begin with, 4 the server's run, 5 the process's limits, 6 numbers;
--   then the events. All times in microseconds.
--
-- Many small values are packed into one string of doubles (struct): of what this script costs, half was taking apart
-- and putting together what it is told, keeps and answers.
--
-- An event is "<kind>:<epoch>:<pause>"; kinds are o (answer), x (overloaded), f (fault), t (timeout), u (a probe that
-- told nothing); capitals where the permit was the probe.

local me, guard, channel = ARGV[1], ARGV[2], ARGV[3]
-- Lease; how long from now calls of before the server's start may still run; processes that this one last saw; its
-- fence (0: none yet); permits given back; permits it knows of; number of its events; tokens to charge; longest time to
-- a probe; callers that wait in each lane; tokens of the one in front (-1: not known).
local lease, uncertain, seen, fence, released, known, number, charge, longest, want1, want2, want3, front_tokens =
  struct.unpack('>ddddddddddddd', ARGV[6])

local stored = redis.call('HMGET', KEYS[1], '', me)
local STATE = '>ssssdddddddddddddddddddddddddddddddddddddd'
local s = {waits = {0, 0, 0}, skip = {0, 0, 0}} -- for each lane: processes that wait, turns that went over its head
if stored[1] then
  s.run, s.b, s.bwin, s.bpid,
    s.last, s.ahead, s.born, s.lease, s.grace, s.era, s.seen, s.back,
    s.total, s.fences, s.touched, s.members, s.joins, s.next_end,
    s.waits[1], s.waits[2], s.waits[3], s.vt, s.skip[2], s.skip[3], s.rtat, s.ttat, s.paused,
    s.c, s.rpm, s.tpm, s.adaptive, s.bat, s.bopen, s.bnum, s.bcount,
    s.al, s.ae, s.af, s.aat, s.ah, s.as, s.an = struct.unpack(STATE, stored[1])
else
  s.last, s.ahead, s.lease = 0, 0, lease -- the time of the last exchange, how far that is ahead of the server's
  s.run, s.grace, s.era, s.seen, s.back = '', 0, 0, 0, 0 -- until when, or until how many are back, nobody may go
  s.total, s.members, s.joins, s.next_end, s.touched = 0, 0, 0, 0, 0 -- joins: a number for each change of members
  s.vt, s.rtat, s.ttat, s.paused = 0, 0, 0, 0 -- whose turn; next request, token; nobody before
  s.c, s.rpm, s.tpm, s.adaptive = 0, 0, 0, 0 -- limits in force
  s.b, s.bwin, s.bat, s.bopen, s.bpid, s.bnum, s.bcount = 'c', '', 0, 5000000, '', 0, 0 -- the breaker
  s.al, s.ae, s.af, s.aat, s.ah, s.as, s.an = 0, 0, 0, 0, 0, 0, 0 -- the adaptive limit
  -- What is left where a part was lost tells nothing, but that there were others.
  if redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]) > 0 then uncertain = math.max(uncertain, lease) end
end

-- A clock that was set back, or another server's, must not let leases, pauses and rates stand still until it is there.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2] + s.ahead
if now < s.last then
  s.ahead = s.ahead + s.last - now
  now = s.last
end
-- No fence of another state is one of this state's.
if not stored[1] then s.last, s.born, s.fences = now, now, now end
s.lease = math.max(s.lease, lease) -- the longest that one of its processes has

-- After a server's start without its data, or with data of a while ago, after a time without any member (who renew
-- their leases every third of them), and where members of a state that was lost come back, processes that are not back
-- yet may still have calls under way. Until as many have come back as were last seen, or all had the time to, nobody
-- gets anything: each may hold much more than an equal share.
local is_new_run = s.run ~= ARGV[4]
local away = now - s.last
local all_are_due = is_new_run or s.members > 0 and away > s.lease / 2
if stored[1] then uncertain = all_are_due and s.lease or 0 end
if fence ~= 0 and fence < s.born then uncertain = math.max(uncertain, s.born + s.lease - now) end
local restarted = uncertain > 0 and (all_are_due or now >= s.grace)
if restarted then
  if not all_are_due then s.seen = 0 -- members are there: only those of the lost state are to come
  else
    s.era = s.era + 1
    -- Within a grace, those who are not back yet are still to come, even if nobody has told yet how many they are.
    if now >= s.grace then s.seen = s.members
    elseif s.seen > 0 then s.seen = math.max(s.seen, s.members) end
  end
  s.back = 0
end
if uncertain > 0 then s.grace = math.max(s.grace, now + uncertain) end
s.run, s.last = ARGV[4], now

-- A member: permits granted (g) and given back (r), its fence (f), the number of its last events (q), callers that
-- wait in each lane (d), tokens of the one in front (t; -1: not known), when its lease ends, the number of joins when
-- its rank was looked up, the uncertain time (era) since which it was heard of, and its limits.
local MEMBER = '>sdddddddddddd'
local function parse(record)
  local m = {d = {}}
  m.limits, m.g, m.r, m.f, m.q, m.d[1], m.d[2], m.d[3], m.t, m.ends, m.joins, m.rank, m.era =
    struct.unpack(MEMBER, record)
  return m
end
local function packed(m)
  return struct.pack(MEMBER, m.limits, m.g, m.r, m.f, m.q, m.d[1], m.d[2], m.d[3], m.t, m.ends, m.joins, m.rank, m.era)
end

local limits_changed = false

local function forget(pid, m)
  s.total = s.total - (m.g - m.r)
  redis.call('HDEL', KEYS[1], pid)
  redis.call('ZREM', KEYS[2], pid)
  redis.call('ZREM', KEYS[3], pid)
  for lane = 1, 3 do
    s.waits[lane] = s.waits[lane] - redis.call('ZREM', KEYS[3 + lane], pid)
  end
  if s.bpid == pid then s.bpid = '' end
  s.members = s.members - 1
  s.joins = s.joins + 1
  limits_changed = true
end

local mine = stored[2] and parse(stored[2])
-- Whether the server has gone back to data of a while ago: this process had more answers since.
local outdated = fence > s.fences or mine and mine.f == fence and number > mine.q + 1

-- Leases that have run out.
if now >= s.next_end then
  for _, pid in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 64)) do
    if pid == me then
      forget(me, mine)
      mine = nil
    else
      forget(pid, parse(redis.call('HGET', KEYS[1], pid)))
    end
  end
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  s.next_end = first[1] and tonumber(first[2]) or now + lease
end

local told, era = 0, -1
if mine and mine.f ~= fence then
  -- It has begun anew meanwhile, or has not heard of this membership: what was granted to it is used by nobody. That it
  -- is back has been counted.
  era = mine.era
  if number >= mine.q then told = mine.q end
  forget(me, mine)
  mine = nil
end

-- Whoever comes for the first time, or whose lease has run out, gets a fence of its own: grants that were on their way
-- to it before count no more. The calls that it has under way are real, and count from now on.
local lost = not mine and fence ~= 0
if not mine then
  s.fences = s.fences + 1
  mine = {
    g = known, r = released, f = s.fences, q = told, d = {0, 0, 0}, t = -1,
    limits = '', ends = 0, joins = -1, rank = 0, era = era,
  }
  s.total = s.total + (known - released)
  redis.call('ZADD', KEYS[3], s.fences, me)
  s.touched = 0
  s.members = s.members + 1
  s.joins = s.joins + 1
end
if mine.era ~= s.era then
  mine.era = s.era
  if fence ~= 0 then
    s.back = s.back + 1
    s.seen = math.max(s.seen, seen)
  end
end
if known > mine.g then
  s.total = s.total + (known - mine.g)
  mine.g = known
end
local in_flight = s.total
if released > mine.r then
  s.total = s.total - (released - mine.r)
  mine.r = released
end
-- A lease that has hardly begun is not renewed; no process counts on the last part of its own.
local renewed = lease > 0 and mine.ends - now < 0.9 * lease
if renewed then
  mine.ends = now + lease
  redis.call('ZADD', KEYS[2], mine.ends, me)
  s.next_end = math.min(s.next_end, mine.ends)
end
if mine.joins ~= s.joins then
  mine.joins = s.joins
  mine.rank = redis.call('ZRANK', KEYS[3], me) or 0
end

if mine.limits ~= ARGV[5] then
  mine.limits = ARGV[5]
  limits_changed = true
end

-- Calls at once, requests and tokens a minute (0: any number), and 1 where the first is a ceiling to adapt under. The
-- limits of a guard are the tightest that one of its processes asks for.
local function split(limits)
  local c, rpm, tpm, adaptive = string.match(limits, '^([^|]*)|([^|]*)|([^|]*)|([^|]*)$')
  return tonumber(c), tonumber(rpm), tonumber(tpm), tonumber(adaptive)
end
local function tighter(one, other)
  if one == 0 then return other end
  if other == 0 then return one end
  return math.min(one, other)
end
-- What is due later than now has been spent at the old rate; at a higher one it comes back sooner.
local function carried_over(due, before, after)
  if due > now and before > 0 and after > before then return now + (due - now) * before / after end
  return due
end
if limits_changed or lease == 0 then
  local c, rpm, tpm, adaptive = 0, 0, 0, 0
  if lease > 0 then c, rpm, tpm, adaptive = split(mine.limits) end
  local members = redis.call('HGETALL', KEYS[1])
  for i = 1, #members, 2 do
    if members[i] ~= me and members[i] ~= '' then
      local c2, rpm2, tpm2, adaptive2 = split(parse(members[i + 1]).limits)
      c, rpm, tpm = tighter(c, c2), tighter(rpm, rpm2), tighter(tpm, tpm2)
      adaptive = math.max(adaptive, adaptive2)
    end
  end
  s.rtat, s.ttat = carried_over(s.rtat, s.rpm, rpm), carried_over(s.ttat, s.tpm, tpm)
  s.c, s.rpm, s.tpm, s.adaptive = c, rpm, tpm, adaptive
end
local cap, rpm, tpm, adaptive = s.c, s.rpm, s.tpm, s.adaptive
local ceiling = cap > 0 and cap or 256
local gap = rpm > 0 and 60000000 / rpm or 0
if restarted and stored[1] and all_are_due and not outdated then -- what came in meanwhile may be spent already
  s.rtat, s.ttat = math.max(s.rtat, now - away) + away, math.max(s.ttat, now - away) + away
elseif restarted or outdated then -- what was spent before is not known: everything
  s.rtat, s.ttat = math.max(s.rtat, now + math.max(gap, 1000000)), math.max(s.ttat, now + 60000000)
end

-- The adaptive limit; the rules are those of guard/adaptive.py.
if adaptive == 1 then
  if s.al == 0 then s.al, s.as = math.min(10, ceiling), 1 end
  s.al = math.min(s.al, ceiling)
end
local function grow()
  if s.af == 0 then
    s.al = math.min(s.al + s.as, ceiling)
    s.as = s.as * 2
    return
  end
  local room = s.af - 1 - s.al
  if room > 0 then
    s.al = math.min(s.al + math.floor((room + 1) / 2), ceiling)
  elseif now >= s.aat then
    s.af, s.as = 0, 1
    grow()
  end
end
local function succeeded(epoch)
  if epoch ~= s.ae or 2 * in_flight < s.al then return end
  s.an = s.an + 1
  if s.an >= s.al then
    s.an, s.ah = 0, s.al
    grow()
  end
end
local function overloaded(epoch)
  if epoch ~= s.ae then return false end
  local lowered = math.max(1, math.floor(s.al * 0.8))
  local held = s.ah < s.al and s.ah or 0
  s.af, s.aat = s.al, now + 10000000
  s.al = s.al > 1 and math.max(lowered, held) or 1
  s.ah, s.as, s.an, s.ae = 0, 1, 0, s.ae + 1
  return true
end

-- The breaker; the rules are those of guard/breaker.py. b is c (closed), o (open) or h (half open).
local opened_now = false
local function open()
  s.b, s.bcount, s.bwin, s.bpid = 'o', s.bcount + 1, '', ''
  s.bat = now + math.min(s.bopen, longest)
  opened_now = true
end
local function answered(failed, probe)
  if probe and s.b == 'h' and s.bpid == me then
    s.bpid = ''
    if failed then
      s.bopen = math.min(60000000, 2 * s.bopen)
      open()
    else
      s.b, s.bopen, s.bwin = 'c', 5000000, ''
    end
    return
  end
  s.bwin = string.sub(s.bwin .. (failed and '1' or '0'), -20)
  if failed and s.b == 'c' and #s.bwin >= 5 then
    local _, failures = string.gsub(s.bwin, '1', '')
    if 2 * failures >= #s.bwin then open() end
  end
end

if lost then
  -- It may have told this before, and what it has learnt is old; a charge too many does no harm.
  mine.q = number
  if tpm > 0 then s.ttat = math.max(s.ttat, now) + math.max(0, charge) * 60000000 / tpm end
elseif number > mine.q then
  mine.q = number
  for i = 7, #ARGV do
    local kind, epoch, pause = string.match(ARGV[i], '^(%a):(%d+):(%d+)$')
    epoch, pause = tonumber(epoch), tonumber(pause)
    local plain = string.lower(kind)
    local probe = plain ~= kind
    if plain == 'u' then
      if s.bpid == me then s.bpid = '' end
    else
      local first = true
      if adaptive == 1 then
        if plain == 'o' then succeeded(epoch)
        elseif plain ~= 'f' then first = overloaded(epoch) end
      end
      if pause > 0 and first then s.paused = math.max(s.paused, now + pause) end
      answered(plain == 'f' or plain == 't', probe)
    end
  end
  if tpm > 0 then s.ttat = math.max(s.ttat, now) + charge * 60000000 / tpm end
end

-- Who waits. Grants on their way to the process are for callers that it still counts as waiting; who leaves wants
-- nothing.
local on_way = mine.g - known
local wants = lease > 0 and {want1, want2, want3} or {0, 0, 0}
local queued = {} -- lanes in which it has a turn already
for lane = 1, 3 do
  local wanted = wants[lane]
  local covered = math.min(wanted, on_way)
  on_way = on_way - covered
  wanted = wanted - covered
  if mine.d[lane] > 0 then
    if wanted == 0 then s.waits[lane] = s.waits[lane] - redis.call('ZREM', KEYS[3 + lane], me)
    else
      queued[lane] = true
      -- Puts it back, should the server have dropped the lane.
      if renewed then s.waits[lane] = s.waits[lane] + redis.call('ZADD', KEYS[3 + lane], 'NX', s.vt + 1, me) end
    end
  end
  mine.d[lane] = wanted
end
-- The caller in front is the one whom a grant on its way is for.
mine.t = mine.g == known and front_tokens or -1

if lease == 0 then forget(me, mine) end -- goodbye: its permits go to others

-- Who may go now.
local limit = adaptive == 1 and s.al or cap
if limit == 0 then limit = 1e15 end
local retry, got, others = 0, 0, {}
while s.total < limit do
  if now < s.grace and limit < 1e15 and (s.seen == 0 or s.back < s.seen) then retry = s.grace break end
  if s.b == 'o' and now < s.bat then retry = s.bat break end
  if s.b == 'h' and s.bpid ~= '' then break end
  if now < s.paused then retry = s.paused break end
  if rpm > 0 then
    local ready = s.rtat - (math.max(1, rpm / 60) - 1) * gap
    if now < ready then retry = ready break end
  end
  local lane, chosen, turn
  for each = 1, 3 do
    local front, its_turn
    if s.waits[each] > 0 then
      local found = redis.call('ZRANGE', KEYS[3 + each], 0, 0, 'WITHSCORES')
      front, its_turn = found[1], tonumber(found[2])
      if not front then s.waits[each] = 0 end
    end
    -- Whoever has no turn yet comes after those served last; it gets a place only if it must wait.
    if mine.d[each] > 0 and not queued[each] and (not front or s.vt + 1 < its_turn) then
      front, its_turn = me, s.vt + 1
    end
    if front and (not chosen or s.skip[each] >= 16) then
      lane, chosen, turn = each, front, its_turn
    end
  end
  if not chosen then break end
  local m = chosen == me and mine or others[chosen] or parse(redis.call('HGET', KEYS[1], chosen))
  local cost = 0
  if tpm > 0 then
    if m.t < 0 then
      -- Told already that it may go: it will say at once what its next caller needs.
      if chosen == me or m.asked then break end
      redis.call('ZADD', KEYS[3 + lane], turn + 1, chosen)
      m.asked = true
      others[chosen] = m
    else
      cost = m.t * 60000000 / tpm
      local ready = math.max(s.ttat, now) + math.min(cost, 60000000) - 60000000
      if now < ready then retry = ready break end
    end
  end
  if tpm == 0 or m.t >= 0 then
    m.g = m.g + 1
    m.d[lane] = m.d[lane] - 1
    if chosen ~= me then m.charged = math.max(0, m.t) end
    m.t = -1
    s.total = s.total + 1
    s.vt = math.max(s.vt, turn)
    if chosen ~= me or queued[lane] then
      if m.d[lane] > 0 then redis.call('ZADD', KEYS[3 + lane], turn + 1, chosen)
      else
        s.waits[lane] = s.waits[lane] - redis.call('ZREM', KEYS[3 + lane], chosen)
        if chosen == me then queued[lane] = nil end
      end
    end
    s.skip[lane] = 0
    for below = lane + 1, 3 do
      if s.waits[below] > 0 or mine.d[below] > 0 then s.skip[below] = s.skip[below] + 1 end
    end
    if rpm > 0 then s.rtat = math.max(s.rtat, now) + gap end
    if tpm > 0 then s.ttat = math.max(s.ttat, now) + cost end
    local is_probe = s.b ~= 'c'
    if is_probe then s.b, s.bpid, s.bnum = 'h', chosen, m.g end
    if chosen == me then
      got = got + 1
    else
      m.lanes = (m.lanes or '') .. (lane - 1)
      others[chosen] = m
    end
    if is_probe then break end
  end
end
for lane = 1, 3 do
  if mine.d[lane] > 0 and not queued[lane] then
    -- A lane that nobody waited in is a new key.
    if s.waits[lane] == 0 then s.touched = 0 end
    s.waits[lane] = s.waits[lane] + redis.call('ZADD', KEYS[3 + lane], s.vt + 1, me)
  end
end

-- A user of Redis without the right to channels must not end this half way: the state is not saved yet. Whoever is not
-- told looks again by itself.
local function tell(pid, message) redis.pcall('PUBLISH', channel .. pid, message) end
for pid, m in pairs(others) do
  if m.lanes then
    redis.call('HSET', KEYS[1], pid, packed(m))
    tell(pid, string.format('%s %.0f %.0f %s %.0f %.0f %.17g',
      guard, m.f, m.g, m.lanes, s.ae, s.bpid == pid and s.bnum or 0, m.charged))
  end
end
if opened_now then
  for lane = 4, 6 do
    for _, pid in ipairs(redis.call('ZRANGE', KEYS[lane], 0, -1)) do
      if pid ~= me then tell(pid, guard) end
    end
  end
end

-- A guard that nobody uses any more vanishes.
local touch = now - s.touched > 60000000
if touch then s.touched = now end
local state = struct.pack(STATE, s.run, s.b, s.bwin, s.bpid,
  s.last, s.ahead, s.born, s.lease, s.grace, s.era, s.seen, s.back,
  s.total, s.fences, s.touched, s.members, s.joins, s.next_end,
  s.waits[1], s.waits[2], s.waits[3], s.vt, s.skip[2], s.skip[3], s.rtat, s.ttat, s.paused,
  s.c, s.rpm, s.tpm, s.adaptive, s.bat, s.bopen, s.bnum, s.bcount,
  s.al, s.ae, s.af, s.aat, s.ah, s.as, s.an)
if lease > 0 then redis.call('HSET', KEYS[1], '', state, me, packed(mine))
else redis.call('HSET', KEYS[1], '', state) end
if touch then
  for i = 1, 6 do redis.call('PEXPIRE', KEYS[i], 3600000) end
end

-- Of those that wait for the same moment, one wakes first and serves all; the others look whether it did.
if retry > 0 then
  local rank = 0
  for lane = 1, 3 do
    if s.waits[lane] > 0 then rank = math.max(rank, redis.call('ZRANK', KEYS[3 + lane], me) or 0) end
  end
  retry = math.max(1, retry - now) + math.min(rank * 20000, 1000000)
end
return struct.pack('>dddddddddddddddddddd',
  mine.f, lost and 1 or 0, mine.g, got, mine.d[1], mine.d[2], mine.d[3], s.total, limit >= 1e15 and 0 or limit, retry,
  s.members, mine.rank, s.b == 'c' and 0 or s.b == 'o' and 1 or 2, math.max(0, s.bat - now), s.bcount,
  s.b == 'h' and s.bpid == me and s.bnum > known and s.bnum or 0, math.max(0, s.paused - now), s.ae, cap, tpm)
