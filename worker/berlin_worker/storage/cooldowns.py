"""Cooldowns of models in Redis, shared by the fleet: one key with a TTL for each model.

A process asks Redis about a model at most every ``FRESH_S``, and not for each job. Its own
cooldowns apply at once.
"""

import asyncio
import logging
import math
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from berlin_schemas import names

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

FRESH_S: Final = 0.25
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
        self._until: dict[_Model, float] = {}
        self._asked_at: dict[_Model, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def remaining_s(self, provider: str, model: str) -> float:
        """Return for how long (s) no worker should call the model; 0 if it may."""
        named, now = (provider, model), time.monotonic()
        if (until := self._until.get(named)) is not None and until > now:
            return until - now
        if now - self._asked_at.get(named, -math.inf) < FRESH_S:
            return 0.0
        if len(self._asked_at) >= _MODELS_MAX:
            self._asked_at.clear()
            self._until.clear()
        # Noted before the reply, so that jobs that begin meanwhile do not ask as well.
        self._asked_at[named] = now
        await self._within_patience(self._ask(named))
        return max(self._until.get(named, 0.0) - time.monotonic(), 0.0)

    async def begin(self, provider: str, model: str, cooldown_s: float) -> None:
        """Let the model cool down for that long (s), or for longer if it does already."""
        named, until = (provider, model), time.monotonic() + cooldown_s
        self._until[named] = max(until, self._until.get(named, 0.0))
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
        if left_ms > 0:
            self._until[named] = time.monotonic() + left_ms / 1000

    async def _write(self, key: str, milliseconds: int) -> None:
        try:
            async with self._redis.pipeline() as pipeline:
                pipeline.set(key, 1, px=milliseconds, nx=True)
                pipeline.pexpire(key, milliseconds, gt=True)
                await pipeline.execute()
        except (RedisError, OSError) as error:
            logger.debug("the cooldown of a model is known to this process alone: %s", error)
