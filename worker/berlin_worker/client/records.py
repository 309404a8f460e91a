"""How a job stands: by its record, or, where an ACL forbids that, by its log.

Records hold prompts, so whoever only shows replies need not have the right to read them.
"""

from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from berlin_schemas import Event, Terminal, decode, names
from berlin_worker.client.replay import Entry
from berlin_worker.client.values import JobStatus, Status

_FIELDS: Final = ["status", "attempt", "seq", "cancel", "created_ms", "started_ms"]


async def status(redis: Redis, job_id: str) -> JobStatus:
    """What there is to know. Redis' errors come out as they are."""
    try:
        values: Any = await redis.hmget(names.state_key(job_id), _FIELDS)
    except NoPermissionError:
        return await _by_log(redis, job_id)
    told, attempt, seq, cancel, created_ms, started_ms = values
    return JobStatus(
        job_id=job_id,
        status=told.decode() if told else "unknown",
        attempt=int(attempt or 0),
        seq=int(seq or 0),
        cancel_requested=cancel is not None,
        created_ts=int(created_ms) / 1000 if created_ms else None,
        started_ts=int(started_ms) / 1000 if started_ms else None,
    )


async def _by_log(redis: Redis, job_id: str) -> JobStatus:
    state, log = names.state_key(job_id), names.log_key(job_id)
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.hexists(state, "status")
        pipeline.hexists(state, "cancel")
        pipeline.xrange(log, count=1)
        pipeline.xrevrange(log, count=1)
        there, cancel, first, last = await pipeline.execute()
    begun, latest = _event(first), _event(last)
    told: Status = "queued" if there else "unknown"
    if isinstance(latest, Terminal):
        told = latest.type
    elif latest is not None:
        told = "running"  # or it waits for another attempt, which the log does not tell
    return JobStatus(
        job_id=job_id,
        status=told,
        attempt=latest.attempt if latest else 0,
        seq=latest.seq if latest else 0,
        cancel_requested=bool(cancel),
        started_ts=begun.ts if begun and begun.type == "started" else None,
    )


def _event(entries: list[Entry]) -> Event | None:
    try:
        return decode(entries[0][1].get(b"event", b"")) if entries else None
    except ValueError:
        return None
