"""The upstream token: one login for all who need it.

:class:`RedisTokens` serves a fleet, :class:`LocalTokens` one process without Redis.
"""

from berlin_worker.tokens.local import LocalTokens
from berlin_worker.tokens.shared import RedisSource, RedisTokens

__all__ = ["LocalTokens", "RedisSource", "RedisTokens"]
