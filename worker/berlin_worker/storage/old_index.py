"""``worker:due``, the index of unfinished jobs that workers and clients of version 0.1 write.

Workers of both versions run side by side during an update. An old worker requeues every job that is
due there, so jobs that it does not hold leave that key: entries of its own running jobs stay until
they are overdue, which means that no old worker is left.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from berlin_worker.storage.redis_errors import values, wrong_type_is_missing
from berlin_worker.storage.stored_values import as_job_id

KEY: Final = "worker:due"
WITHOUT_LEASE: Final = 2
"""Reply of ``unfinished.lua`` for a job that an old worker runs."""
_AT_ONCE: Final = 500

Overdue = tuple[str, float]
"""Job ID, and for how long the job has been due, ms; negative if it is not due yet."""


async def entries(client: Redis) -> list[Overdue]:
    """Return some entries, the earliest first. Raises redis-py's errors."""
    found: Any = []
    with wrong_type_is_missing():
        found = await client.zrange(KEY, 0, _AT_ONCE - 1, withscores=True)
    if not found:
        return []
    seconds, micros = await client.time()
    now_ms = seconds * 1000 + micros / 1000
    jobs = ((as_job_id(member), now_ms - score) for member, score in found)
    return [(job_id, overdue_ms) for job_id, overdue_ms in jobs if job_id is not None]


def moved(found: Sequence[Overdue], statuses: Mapping[str, int], lease_ms: int) -> list[str]:
    """Return the jobs whose entries move to the new index (pure)."""
    return [
        job_id
        for job_id, overdue_ms in found
        if statuses[job_id] != WITHOUT_LEASE or overdue_ms > lease_ms
    ]


async def held(client: Redis, statuses: Mapping[str, int]) -> set[str]:
    """Return the jobs that old workers run: their entries are here. Raises redis-py's errors."""
    running = [job_id for job_id, status in statuses.items() if status == WITHOUT_LEASE]
    if not running:
        return set()
    async with client.pipeline(transaction=False) as pipeline:
        for job_id in running:
            pipeline.zscore(KEY, job_id)  # ZMSCORE is no right of the ACL file
        scores = values(await pipeline.execute(raise_on_error=False))
    return {job_id for job_id, score in zip(running, scores, strict=True) if score is not None}


async def remove(client: Redis, job_ids: Sequence[str]) -> None:
    """Remove entries. Raises redis-py's errors."""
    if job_ids:
        await client.zrem(KEY, *job_ids)
