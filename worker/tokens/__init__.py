"""The upstream token: one login for all who need it.

:class:`RedisTokens` serves a fleet, :class:`LocalTokens` one process without Redis.
"""

from worker.tokens.local import LocalTokens
from worker.tokens.shared import RedisSource, RedisTokens

__all__ = ["LocalTokens", "RedisSource", "RedisTokens"]
