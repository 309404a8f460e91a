"""One value of each type of Redis, for keys that have to survive it."""

from collections.abc import Callable
from typing import Any, Final

WRITERS: Final[dict[str, Callable[[Any, str], object]]] = {
    "string": lambda server, key: server.set(key, "x"),
    "list": lambda server, key: server.lpush(key, "x"),
    "set": lambda server, key: server.sadd(key, "x"),
    "hash": lambda server, key: server.hset(key, "x", "y"),
    "zset": lambda server, key: server.zadd(key, {"x": 1}),
    "stream": lambda server, key: server.xadd(key, {"x": "y"}),
}
"""Type, and a function of client and key that writes a value of it."""
