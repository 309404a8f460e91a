"""The index of jobs that are not finished, ``worker:due``: find those that are due."""

import logging
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from berlin_schemas import names
from berlin_worker.storage.stored_values import as_job_id

logger = logging.getLogger(__name__)

_DAY_MS: Final = 86_400_000


async def find(redis: Redis, limit: int) -> list[str]:
    """Return the IDs of up to ``limit`` jobs that are due; raises redis-py's errors.

    A member that is no job ID is removed. A member whose score lies more than a day ahead is due,
    too, since no script of ours writes such a score.
    """
    seconds, micros = await redis.time()
    now_ms = seconds * 1000 + micros // 1000
    found = await _between(redis, "-inf", now_ms, limit)
    if len(found) < limit:
        found += await _between(redis, now_ms + _DAY_MS, "+inf", limit - len(found))
    due = {member: as_job_id(member) for member in found}
    if foreign := [member for member, job_id in due.items() if job_id is None]:
        logger.error("%d members of %s are no job IDs: removed", len(foreign), names.DUE_JOBS)
        await redis.zrem(names.DUE_JOBS, *foreign)
    return [job_id for job_id in due.values() if job_id is not None]


async def _between(redis: Redis, first: float | str, last: float | str, limit: int) -> list[bytes]:
    bounds: Any = (first, last)  # redis-py types them as integers
    try:
        found: Any = await redis.zrange(
            names.DUE_JOBS, bounds[0], bounds[1], byscore=True, offset=0, num=limit
        )
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        # Renewals and submissions write it anew.
        logger.error("%s is no sorted set: removed", names.DUE_JOBS)  # noqa: TRY400  # a traceback adds nothing
        await redis.delete(names.DUE_JOBS)
        return []
    return list(found)
