"""What has to happen in Redis in one step, as Lua.

Each script touches one key, so that it also runs on Redis Cluster.  Times are read from the server's clock, in
microseconds, so that replicas with clocks of their own share one truth.  Numbers are written with ``%.0f``: Lua's own
conversion keeps 14 digits, and microseconds since the epoch have 16.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple


class Script(NamedTuple):
    """A script and the name under which Redis remembers it."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

SWAP: Final = _script("""
-- ARGV: whether a value is expected (0 or 1), the expected value, the new value, milliseconds to live
local held = redis.call('GET', KEYS[1])
if ARGV[1] == '0' then
  if held then return 0 end
elseif held ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1
""")

# The record outlives the lease, and a new number is never below the clock: the numbers grow even when the record was
# lost with everything else.
LEASE: Final = _script(
    _NOW
    + """
-- ARGV: owner, microseconds to live, milliseconds to keep the record
local held = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'until')
local fence = tonumber(held[2] or '0')
local live = held[1] and held[1] ~= '' and tonumber(held[3]) > now
if live and held[1] ~= ARGV[1] then return false end
if not live then fence = math.max(fence + 1, now) end
local ends = string.format('%.0f', now + ARGV[2])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fence', string.format('%.0f', fence), 'until', ends)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return fence
"""
)

RELEASE: Final = _script("""
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('HSET', KEYS[1], 'owner', '') end
return 0
""")

# GCRA: the key holds the theoretical arrival time.  A refused attempt does not move it.  One that lies further ahead
# than a full bucket (the clock went back, or the burst was made smaller) is brought down to a full bucket.
TALLY: Final = _script(
    _NOW
    + """
-- ARGV: microseconds per attempt, burst
local every = tonumber(ARGV[1])
local room = every * tonumber(ARGV[2])
local held = tonumber(redis.call('GET', KEYS[1]) or '') or now
local tat = math.min(math.max(held, now), now + room)
local wait = tat + every - now - room
if wait <= 0 then tat = tat + every end
if tat ~= held then
  redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
end
if wait > 0 then return {0, wait} end
return {1, 0}
"""
)

GIVE_BACK: Final = _script(
    _NOW
    + """
-- ARGV: microseconds per attempt
local held = tonumber(redis.call('GET', KEYS[1]) or '')
if not held then return 0 end
local tat = held - tonumber(ARGV[1])
if tat <= now then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
end
return 1
"""
)

ADD: Final = _script("""
-- ARGV: member, milliseconds that the set must live at least
redis.call('SADD', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
""")

# An entry carries its own end: one that ends soon must not take with it what was to stay longer.
APPEND: Final = _script(
    _NOW
    + """
-- ARGV: value, milliseconds that the entry must live at least, entries to keep at least
local fresh = math.floor(now / 1000)
local ends = string.format('%.0f', fresh + ARGV[2])
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'v', ARGV[1], 'u', ends)
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 16)) do
  if tonumber(entry[2][4]) > fresh then break end
  redis.call('XDEL', KEYS[1], entry[1])
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return id
"""
)
