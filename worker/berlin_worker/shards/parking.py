"""Jobs whose event store is away wait on ``REDIS_URL``, and not in a slot of a worker.

One shard that is away must not fill the slots of all workers with jobs that wait for it, nor
send their messages round and round the queue. A parked job has left the queue; it comes back to
its head when a worker has reached the shard again. Written down before the message is
acknowledged and removed after a new one is sent: a job may come twice, and then the second
delivery is dropped, but none is lost.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.telemetry import tracing

logger = logging.getLogger(__name__)

_INTERVAL_S: Final = 1.0
_AT_ONCE: Final = 200
"""Jobs that come back in one interval, of one shard, in the whole fleet."""


class Doorbell(Protocol):
    """The job queue."""

    async def ring(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Put the message of a job on the queue; raises ``ConnectionError``."""


class Parking:
    """``ttl_s`` is how long a job may wait."""

    def __init__(self, home: Redis, doorbell: Doorbell, *, count: int, ttl_s: int) -> None:
        self._home = home
        self._doorbell = doorbell
        self._count = count
        self._ttl_s = ttl_s

    async def park(self, shard: int, job_id: str, job: Any) -> bool:
        """Whether the job is written down. Not where Redis is away, or ``job`` is not JSON."""
        key = names.parked_key(shard)
        try:
            # By its nonce one parking is never taken for another of the same job.
            entry = json.dumps([job_id, secrets.token_hex(8), job, tracing.current().memo])
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
                except (RedisError, OSError) as error:
                    logger.warning("parked jobs cannot be brought back: %s", error)

    async def bring_back(self, shard: int) -> None:
        """Put the longest parked jobs of a shard back on the queue, if nobody else is at it."""
        key = names.parked_key(shard)
        if not await self._home.exists(key):
            return
        if not await self._home.set(f"{key}:turn", "", nx=True, px=round(_INTERVAL_S * 1000)):
            return
        entries: Any = await self._home.zrange(key, 0, _AT_ONCE - 1)
        for entry in entries:
            job_id, _, job, trace = json.loads(entry)
            await self._doorbell.ring(job_id, json.dumps(job).encode(), trace.encode())
            await self._home.zrem(key, entry)
        logger.info("%d jobs whose event store was away are back on the queue", len(entries))
