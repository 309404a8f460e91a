"""Jobs whose event store is away wait on ``REDIS_URL``, and not in a slot of a worker.

One shard that is away must not fill the slots of all workers with jobs that wait for it, nor
send their messages round and round the queue. A parked job has left the queue; it comes back to
its head when a worker has reached the shard again. Written down before the message is
acknowledged and removed after a new one is sent: a job may come twice, and then the second
delivery is dropped, but none is lost.
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
"""Jobs that come back in one interval, of one shard, in the whole fleet."""


Discard = Callable[[object, str, str, bytes], Awaitable[None]]
"""Ends what can never run; called with job ID, reason, text for its reader, dead letter."""


class JobQueue(Protocol):
    """The job queue."""

    async def requeue(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Put the message of a job on the queue; raises ``ConnectionError``."""


class Parked(NamedTuple):
    """A job that waits: its ID, the job object as JSON, and what continues its trace."""

    job_id: str
    job: bytes
    trace: bytes


def parse(entry: bytes) -> Parked | None:
    """The job in an entry of a parking; ``None`` for what no worker has written."""
    try:
        job_id, _, job, trace = json.loads(entry)
        parked = Parked(job_id, json.dumps(job).encode(), trace.encode())
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return parked if names.is_job_id(job_id) else None


class Parking:
    """``ttl_s`` is how long a job may wait; ``discard`` ends what cannot come back."""

    def __init__(
        self, home: Redis, job_queue: JobQueue, *, count: int, ttl_s: int, discard: Discard
    ) -> None:
        self._home = home
        self._job_queue = job_queue
        self._count = count
        self._discard = discard
        self._ttl_s = ttl_s

    async def park(self, shard: int, job_id: str, job: Any) -> bool:
        """Whether the job is written down. Not where Redis is away, or ``job`` is not JSON."""
        key = names.parked_key(shard)
        try:
            # By its nonce one parking is never taken for another of the same job.
            entry = json.dumps([job_id, secrets.token_hex(8), job, tracing.current().carrier])
            async with self._home.pipeline(transaction=True) as pipeline:
                pipeline.zadd(key, {entry: time.time()})
                pipeline.expire(key, self._ttl_s)
                await pipeline.execute()
        except (RedisError, OSError, ValueError, TypeError):
            return False
        return True

    async def bring_back_forever(self, is_away: Callable[[int], bool]) -> None:
        """Put the jobs of shards that are not away back on the queue, until cancelled."""
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
        """Put the longest parked jobs of a shard back on the queue, if nobody else is at it."""
        key = names.parked_key(shard)
        if not await self._home.exists(key):
            return
        turn = f"{key}:turn"
        if not await self._home.set(turn, "", nx=True, px=round(_INTERVAL_S * 1000)):
            if await self._home.pttl(turn) == _NO_TTL:
                await self._home.delete(turn)  # no worker has written it
            return
        entries: Any = await self._home.zrange(key, 0, _AT_ONCE - 1)
        for entry in entries:
            await self._bring_back(entry)
            await self._home.zrem(key, entry)
        logger.info("%d jobs whose event store was away are back on the queue", len(entries))

    async def _bring_back(self, entry: bytes) -> None:
        parked = parse(entry)
        detail = "no worker has written the entry by which it was parked"
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
        """Remove a key of another type, which would keep all jobs of the shard for ever."""
        key = names.parked_key(shard)
        logger.warning("parked jobs cannot be brought back: %s", error)
        with contextlib.suppress(RedisError, OSError):
            if str(error).startswith("WRONGTYPE"):
                await self._home.delete(key)
