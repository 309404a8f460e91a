"""Cooldowns of models in Redis, shared by the fleet: one key with a TTL for each model.

A process asks Redis about a model at most every ``FRESH_S``, and not for each job. Its own
cooldowns apply at once. Any client may write these keys: one without a TTL, or with a longer one
than a worker gives it, is no cooldown.
"""

import asyncio
import logging
import math
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.jobs.cooldown import LONGEST_S

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

FRESH_S: Final = 0.25
_LONGEST_MS: Final = LONGEST_S * 1000
_NO_KEY: Final = -2
"""The reply of PTTL."""
_PATIENCE_S: Final = 1.0
"""How long a job waits for the reply of Redis, before it goes on without it."""
_MODELS_MAX: Final = 1000
"""Most models to remember, because jobs may name any model. Beyond it all are forgotten, and Redis
is asked again."""

_Model = tuple[str, str]
"""Provider and model, as a job names them."""


class RedisCooldowns:
    """The cooldowns that ``redis`` holds; see :class:`berlin_worker.jobs.cooldown.Cooldowns`."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._own: dict[_Model, float] = {}
        self._shared: dict[_Model, float] = {}
        self._asked_at: dict[_Model, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def remaining_s(self, provider: str, model: str) -> float:
        """Return for how long (s) no worker should call the model; 0 if it may."""
        named, now = (provider, model), time.monotonic()
        if (until := self._own.get(named, 0.0)) > now:
            return until - now
        if now - self._asked_at.get(named, -math.inf) < FRESH_S:
            return self._left_s(named)
        if len(self._asked_at) >= _MODELS_MAX:
            for known in (self._asked_at, self._own, self._shared):
                known.clear()
        # Noted before the reply, so that jobs that begin meanwhile do not ask as well.
        self._asked_at[named] = now
        await self._within_patience(self._ask(named))
        return self._left_s(named)

    def _left_s(self, named: _Model) -> float:
        until = max(self._own.get(named, 0.0), self._shared.get(named, 0.0))
        return max(until - time.monotonic(), 0.0)

    async def begin(self, provider: str, model: str, cooldown_s: float) -> None:
        """Let the model cool down for that long (s), or for longer if it does already."""
        named, until = (provider, model), time.monotonic() + cooldown_s
        self._own[named] = max(until, self._own.get(named, 0.0))
        key = names.limit_key(provider, model)
        await self._within_patience(self._write(key, math.ceil(cooldown_s * 1000)))

    async def _within_patience(self, work: Coroutine[Any, Any, None]) -> None:
        # A task of its own: a cancellation of the job must not reach redis-py, which before Python
        # 3.12 swallows one that arrives as the command has been sent.
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=_PATIENCE_S)

    async def _ask(self, named: _Model) -> None:
        try:
            left_ms: int = await self._redis.pttl(names.limit_key(*named))
        except (RedisError, OSError) as error:
            logger.debug("no reply on the cooldown of a model: %s", error)
            return
        if 0 < left_ms <= _LONGEST_MS:
            self._shared[named] = time.monotonic() + left_ms / 1000
        else:  # there is no key, or none that a worker has written
            self._shared.pop(named, None)

    async def _write(self, key: str, milliseconds: int) -> None:
        try:
            left_ms: int = await self._redis.pttl(key)
            is_sound = left_ms > 0 or left_ms == _NO_KEY
            async with self._redis.pipeline() as pipeline:
                if is_sound and left_ms <= _LONGEST_MS:
                    pipeline.set(key, 1, px=milliseconds, nx=True)
                    pipeline.pexpire(key, milliseconds, gt=True)
                else:
                    pipeline.set(key, 1, px=milliseconds)
                await pipeline.execute()
        except (RedisError, OSError) as error:
            logger.debug("the cooldown of a model is known to this process alone: %s", error)
