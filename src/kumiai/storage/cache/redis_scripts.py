"""What must happen in Redis as one step, as Lua scripts.

Each names all its keys, and those of one script share a hash tag, so that they lie on one node of
a Cluster. Time is the server's own.
"""

import hashlib

__all__ = [
    "COMPARE_AND_DELETE",
    "COMPARE_AND_SET",
    "INCREMENT",
    "LOCK_ACQUIRE",
    "LOCK_EXTEND",
    "LOCK_RELEASE",
    "Script",
]


class Script:
    """A Lua script; the server keeps it by its digest.

    Args:
        text: the script.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        # Redis names scripts so; nothing rests on it.
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


INCREMENT = Script("""
local value = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return value
""")

COMPARE_AND_DELETE = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
""")

COMPARE_AND_SET = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
if ARGV[3] == '' then
    redis.call('SET', KEYS[1], ARGV[2])
else
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
""")

# KEYS: held (owner), token (the last), queue (owners by arrival), alive (owner to millisecond).
# ARGV: owner, time to live in ms, whether to wait, how long a waiter counts as alive in ms, and
# what the token must exceed; empty: the microseconds since 1970.
# Numbers stay below 2^53 without a floor. With one they do not: those are added as text, by INCR.
LOCK_ACQUIRE = Script("""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
    return {1, redis.call('GET', KEYS[2]), 0}
end
local head = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
while head do
    local alive = redis.call('HGET', KEYS[4], head)
    if alive and tonumber(alive) > now then
        break
    end
    redis.call('ZREM', KEYS[3], head)
    redis.call('HDEL', KEYS[4], head)
    head = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
end
if not holder and (not head or head == ARGV[1]) then
    if ARGV[5] == '' then
        local last = tonumber(redis.call('GET', KEYS[2]) or '0')
        local micros = tonumber(time[1]) * 1000000 + tonumber(time[2])
        redis.call('SET', KEYS[2], string.format('%.0f', math.max(last + 1, micros)))
    else
        redis.call('SET', KEYS[2], ARGV[5], 'NX')
        redis.call('INCR', KEYS[2])
    end
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    redis.call('ZREM', KEYS[3], ARGV[1])
    redis.call('HDEL', KEYS[4], ARGV[1])
    return {1, redis.call('GET', KEYS[2]), 0}
end
if ARGV[3] == '1' then
    if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
        local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')[2]
        redis.call('ZADD', KEYS[3], tonumber(last or '0') + 1, ARGV[1])
    end
    redis.call('HSET', KEYS[4], ARGV[1], string.format('%.0f', now + tonumber(ARGV[4])))
    -- A queue that all have left goes with them.
    redis.call('PEXPIRE', KEYS[3], tonumber(ARGV[4]) * 2)
    redis.call('PEXPIRE', KEYS[4], tonumber(ARGV[4]) * 2)
end
return {0, 0, redis.call('ZRANK', KEYS[3], ARGV[1]) or redis.call('ZCARD', KEYS[3])}
""")

LOCK_EXTEND = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
""")

LOCK_RELEASE = Script("""
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
""")
