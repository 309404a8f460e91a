"""Status of jobs: by their records, or, if an ACL forbids that, of one job by its log.

Records hold prompts, so a service that only shows replies need not have the right to read them.
The content of Redis is untrusted input: a record that makes no sense raises no error.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast, get_args

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from berlin_schemas import Cancelled, Event, Failed, Terminal, decode, names
from berlin_worker.client.entries import Entry, entries_of
from berlin_worker.client.values import JobStatus, Status
from berlin_worker.storage import redis_errors, stored_values
from berlin_worker.storage.connections import Command
from berlin_worker.storage.redis_errors import is_temporary, wrong_type_is_missing

logger = logging.getLogger(__name__)

Ask = Callable[[Sequence[Command]], Awaitable[list[Any]]]
"""Returns the replies to commands; an error stands in the place of a missing one."""

_FIELDS: Final = [
    "status",
    "attempt",
    "seq",
    "cancel",
    "created_ms",
    "started_ms",
    "tenant",
    "metadata",
]
_ENDED_BADLY: Final = frozenset({"failed", "cancelled"})
_PAGE: Final = 200

Place = tuple[int, str]
"""The position of a job in a list: time of its submission (ms), and ID. Newer is greater."""


async def status(redis: Redis, ask: Ask, job_id: str) -> JobStatus:
    """Return the status of a job. Raises redis-py's errors."""
    values: Any = [None] * len(_FIELDS)
    try:
        with wrong_type_is_missing():
            values = await redis.hmget(names.state_key(job_id), _FIELDS)
    except NoPermissionError:
        return await _by_log(redis, job_id)
    found = by_record(job_id, values)
    if found.status not in _ENDED_BADLY:
        return found
    [found] = await _with_ends(ask, [found])
    return found


async def newest(
    redis: Redis,
    ask: Ask,
    *,
    tenant: str | None,
    status: str | None,
    limit: int,
    before: Place | None,
) -> list[JobStatus]:
    """Return up to ``limit`` jobs of the index, newest first, that fit and come after ``before``.

    Jobs whose record has expired are left out. A job whose record is at a node of a cluster that
    does not answer is ``unknown``, or left out if ``tenant`` or ``status`` is given. Raises
    redis-py's errors.
    """
    found: list[JobStatus] = []
    cursor, offset = before, 0
    highest = "+inf" if before is None else str(before[0])
    while len(found) < limit:
        page: Any = []
        with wrong_type_is_missing():
            page = await redis.zrevrangebyscore(
                names.JOBS, highest, "-inf", start=offset, num=_PAGE, withscores=True
            )
        offset += len(page)
        places = sorted(_places(page), reverse=True)
        # A job that came meanwhile has moved all others: places that were seen are skipped.
        places = [place for place in places if cursor is None or place < cursor]
        if places:
            cursor = places[-1]
            jobs, unread = await _read(ask, places)
            shown = unread if tenant is None and status is None else set()
            found += [job for job in jobs if job.job_id in shown or _fits(job, tenant, status)]
        if len(page) < _PAGE:
            break
    return await _with_ends(ask, found[:limit])


async def submitted_later(redis: Redis, job_id: str) -> int | None:
    """Return how many jobs of the index are newer than one; ``None`` if it has no entry.

    ``None`` too if an ACL forbids to count. Raises redis-py's errors.
    """
    with contextlib.suppress(NoPermissionError), wrong_type_is_missing():
        created: Any = await redis.zscore(names.JOBS, job_id)
        if created is not None:
            later: int = await redis.zcount(names.JOBS, f"({created!r}", "+inf")
            return later
    return None


async def attached(redis: Redis, job_id: str) -> str | None:
    """Return who waits for a job; ``None`` if nobody does. Raises redis-py's errors."""
    found: Any = [None]
    with wrong_type_is_missing():
        found = await redis.hmget(names.state_key(job_id), ["caller"])
    return stored_values.text(found[0])


def place_of(job: JobStatus) -> Place:
    """Return the place of a job that :func:`newest` has returned."""
    return (round((job.created_ts or 0.0) * 1000), job.job_id)


def by_record(job_id: str, values: Sequence[bytes | None]) -> JobStatus:
    """Return the status that the values of ``_FIELDS`` describe (pure)."""
    status, attempt, seq, cancel, created_ms, started_ms, tenant, metadata = values
    word = stored_values.text(status)
    created, started = stored_values.whole(created_ms), stored_values.whole(started_ms)
    return JobStatus(
        job_id=job_id,
        status=cast("Status", word) if word in get_args(Status) else "unknown",
        attempt=stored_values.whole(attempt) or 0,
        seq=stored_values.whole(seq) or 0,
        cancel_requested=cancel is not None,
        created_ts=None if created is None else created / 1000,
        started_ts=None if started is None else started / 1000,
        tenant=stored_values.text(tenant),
        metadata=stored_values.json_object(metadata),
    )


def _fits(job: JobStatus, tenant: str | None, status: str | None) -> bool:
    if job.status == "unknown":  # its record has expired
        return False
    return (tenant is None or job.tenant == tenant) and (status is None or job.status == status)


def _places(page: Sequence[tuple[bytes, float]]) -> list[Place]:
    """Return the places of a page of the index, without entries that no script of ours writes."""
    return [
        (int(score), job_id)
        for member, score in page
        if names.is_job_id(job_id := member.decode(errors="replace"))
        and stored_values.is_time_ms(score)
    ]


async def _read(ask: Ask, places: Sequence[Place]) -> tuple[list[JobStatus], set[str]]:
    """Return the jobs at ``places``, and the IDs of those whose records cannot be read now."""
    replies = await ask(
        [("HMGET", names.state_key(job_id), *_FIELDS) for _, job_id in places],
    )
    jobs, unread = [], set()
    for (created_ms, job_id), reply in zip(places, replies, strict=True):
        if isinstance(reply, list):
            jobs.append(by_record(job_id, reply).replaced(created_ts=created_ms / 1000))
        elif is_temporary(reply):
            unread.add(job_id)
            jobs.append(
                JobStatus(
                    job_id=job_id, status="unknown", attempt=0, seq=0, cancel_requested=False
                ).replaced(created_ts=created_ms / 1000)
            )
        elif isinstance(reply, NoPermissionError) or not isinstance(reply, ResponseError):
            raise reply
        # A key of another type fails its own job alone.
    if unread:
        logger.warning("the records of %d listed jobs are at a node that is away", len(unread))
    return jobs, unread


async def _with_ends(ask: Ask, jobs: Sequence[JobStatus]) -> list[JobStatus]:
    """Return ``jobs`` with the error or the reason that the last event of each ended one holds."""
    ended = [job.job_id for job in jobs if job.status in _ENDED_BADLY]
    if not ended:
        return list(jobs)
    replies = await ask(
        [("XREVRANGE", names.log_key(job_id), "+", "-", "COUNT", 1) for job_id in ended]
    )
    ends = {
        job_id: _event(entries_of(reply)) if isinstance(reply, list) else None
        for job_id, reply in zip(ended, replies, strict=True)
    }
    return [_with_end(job, ends.get(job.job_id)) for job in jobs]


def _with_end(job: JobStatus, end: Event | None) -> JobStatus:
    match end:
        case Failed():
            return job.replaced(error=end.error)
        case Cancelled():
            return job.replaced(reason=end.reason)
        case _:
            return job


async def _by_log(redis: Redis, job_id: str) -> JobStatus:
    state, log = names.state_key(job_id), names.log_key(job_id)
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.hexists(state, "status")
        pipeline.hexists(state, "cancel")
        pipeline.xrange(log, count=1)
        pipeline.xrevrange(log, count=1)
        replies = redis_errors.values(await pipeline.execute(raise_on_error=False))
    there, cancel, first, last = replies
    begun, latest = _event(first), _event(last)
    status: Status = "queued" if there else "unknown"
    if isinstance(latest, Terminal):
        status = latest.type
    elif latest is not None:
        status = "running"  # or it waits for another attempt, which the log does not show
    found = JobStatus(
        job_id=job_id,
        status=status,
        attempt=latest.attempt if latest else 0,
        seq=latest.seq if latest else 0,
        cancel_requested=bool(cancel),
        started_ts=begun.ts if begun and begun.type == "started" else None,
    )
    return _with_end(found, latest)


def _event(entries: list[Entry] | None) -> Event | None:
    try:
        return decode(entries[0][1].get(b"event", b"")) if entries else None
    except ValueError:
        return None
