"""Parking: jobs whose event store does not answer wait on ``REDIS_URL``, not in a worker's slot.

Otherwise one lost shard would fill the slots of all workers, or its messages would circle through
the queue. A parked job has left the queue. When a worker reaches the shard again, the job goes to
the head of the queue. The entry is written before the message is acknowledged, and removed after
a new message is sent: a job may be delivered twice (the second delivery is dropped), never lost.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from berlin_schemas import names
from berlin_worker.telemetry import tracing

logger = logging.getLogger(__name__)

_INTERVAL_S: Final = 1.0
_NO_TTL: Final = -1
_AT_ONCE: Final = 200
"""Jobs of one shard that the whole fleet requeues in one interval."""


Discard = Callable[[object, str, str, bytes], Awaitable[None]]
"""Ends a job that can never run; called with job ID, reason, text for its readers, dead letter."""


class JobQueue(Protocol):
    """The job queue."""

    async def requeue(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Put the message of a job on the queue; raises ``ConnectionError``."""


class Parked(NamedTuple):
    """A parked job: its ID, the job object as JSON, and the headers that continue its trace."""

    job_id: str
    job: bytes
    trace: bytes


def parse(entry: bytes) -> Parked | None:
    """Return the job in a parking entry; ``None`` if no worker can have written the entry."""
    try:
        job_id, _, job, trace = json.loads(entry)
        parked = Parked(job_id, json.dumps(job).encode(), trace.encode())
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return parked if names.is_job_id(job_id) else None


class Parking:
    """Parked jobs. ``ttl_s`` limits how long a job waits; ``discard`` ends what cannot return."""

    def __init__(
        self, control_redis: Redis, job_queue: JobQueue, *, count: int, ttl_s: int, discard: Discard
    ) -> None:
        self._control_redis = control_redis
        self._job_queue = job_queue
        self._count = count
        self._discard = discard
        self._ttl_s = ttl_s

    async def park(self, shard: int, job_id: str, job: Any) -> bool:
        """Return whether the job is parked: false if Redis fails, or ``job`` is no JSON value."""
        key = names.parked_key(shard)
        try:
            # The nonce keeps two entries of one job apart.
            entry = json.dumps([job_id, secrets.token_hex(8), job, tracing.current().carrier])
            async with self._control_redis.pipeline(transaction=True) as pipeline:
                pipeline.zadd(key, {entry: time.time()})
                pipeline.expire(key, self._ttl_s)
                await pipeline.execute()
        except (RedisError, OSError, ValueError, TypeError):
            return False
        return True

    async def bring_back_forever(self, is_away: Callable[[int], bool]) -> None:
        """Requeue the jobs of shards that answer again, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            for shard in range(self._count):
                try:
                    if not is_away(shard):
                        await self.bring_back(shard)
                except ResponseError as error:
                    await self._heal(shard, error)
                except (RedisError, OSError) as error:
                    logger.warning("parked jobs cannot be brought back: %s", error)

    async def bring_back(self, shard: int) -> None:
        """Requeue the longest parked jobs of a shard, unless another worker does so now."""
        key = names.parked_key(shard)
        if not await self._control_redis.exists(key):
            return
        slot = f"{key}:turn"
        if not await self._control_redis.set(slot, "", nx=True, px=round(_INTERVAL_S * 1000)):
            if await self._control_redis.pttl(slot) == _NO_TTL:
                await self._control_redis.delete(slot)  # no worker has written it
            return
        entries: Any = await self._control_redis.zrange(key, 0, _AT_ONCE - 1)
        for entry in entries:
            await self._bring_back(entry)
            await self._control_redis.zrem(key, entry)
        logger.info("%d jobs whose event store did not answer are back on the queue", len(entries))

    async def _bring_back(self, entry: bytes) -> None:
        parked = parse(entry)
        detail = "no worker wrote its parking entry"
        if parked is not None:
            try:
                await self._job_queue.requeue(*parked)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001  # belongs to this job alone
                detail = f"its message cannot be sent: {type(error).__name__}"
            else:
                return
        logger.error("a parked job cannot be brought back: %s", detail)
        await self._discard(parked.job_id if parked else None, "invalid_parking", detail, entry)

    async def _heal(self, shard: int, error: ResponseError) -> None:
        """Delete a key of another type, which would block the requeueing of the shard's jobs."""
        key = names.parked_key(shard)
        logger.warning("parked jobs cannot be brought back: %s", error)
        with contextlib.suppress(RedisError, OSError):
            if str(error).startswith("WRONGTYPE"):
                await self._control_redis.delete(key)
