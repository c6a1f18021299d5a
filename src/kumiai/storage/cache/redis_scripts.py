"""What must happen in Redis as one step, as Lua scripts.

Each names all its keys, and those of one script share a hash tag, so that they lie on one node of
a Cluster. Time is the server's own.
"""

import hashlib

__all__ = ["COMPARE_AND_DELETE", "COMPARE_AND_SET", "INCREMENT", "Script"]


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
