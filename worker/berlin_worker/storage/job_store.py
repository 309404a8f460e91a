"""The truth about jobs in Redis: records, leases, logs. Runs the Lua scripts and decides nothing.

Every method raises the builtin ``ConnectionError`` while Redis cannot be reached or
refuses to write; each may then be called again with the same arguments.
"""

import contextlib
import hashlib
import itertools
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from berlin_schemas import names
from berlin_worker.jobs.job_facts import NO_FACTS, Facts
from berlin_worker.jobs.job_log import Batch
from berlin_worker.jobs.store import QUEUE_EMPTY, Claim, Overdue, Renewal
from berlin_worker.storage.script_connection import ScriptConnection, SharedScriptConnection
from berlin_worker.storage.scripts import source

if TYPE_CHECKING:
    from berlin_worker.settings import Settings

logger = logging.getLogger(__name__)

_APPEND: Final = source("append")
_CLAIM: Final = source("claim")
_RENEW: Final = source("renew")
_RELEASE: Final = source("release")
_REAP: Final = source("reap")
_CLEAR_FAILURE: Final = source("clear_failure")
_REVOKE: Final = source("revoke")
_DEAD_LETTER: Final = source("dead_letter_once", "dead_letter_entry")
_WAITS: Final = 2
_DAY_MS: Final = 86_400_000
_RENEWALS: Final[tuple[Renewal, ...]] = ("renewed", "lost", "requested", "revoked")


class RedisStore:
    """``owner`` names this process in the records; ``lease_s`` is how long a claim holds.

    ``dead_letters`` is the Redis of those, where it is another one.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        owner: str,
        lease_s: float,
        log_ttl_s: int,
        queue_ttl_s: int,
        dead_letters_max: int,
        dead_letters: redis.asyncio.Redis | None = None,
    ) -> None:
        self._redis = client
        self._has_info = True
        self._owner = owner
        self._lease_ms = round(lease_s * 1000)
        self._log_ttl_s = log_ttl_s
        self._queue_ttl_s = queue_ttl_s
        self._dead_letters_max = dead_letters_max
        self._dead_letters = dead_letters or client
        pool = client.connection_pool
        self._append = ScriptConnection(pool, _APPEND)
        self._records = SharedScriptConnection(
            pool, _CLAIM, _RENEW, _RELEASE, _REAP, _CLEAR_FAILURE, _REVOKE
        )

    @classmethod
    def from_settings(
        cls,
        client: redis.asyncio.Redis,
        settings: "Settings",
        *,
        owner: str,
        dead_letters: redis.asyncio.Redis | None = None,
    ) -> Self:
        """Return a store with the lease, lifetimes and limits of ``settings``."""
        return cls(
            client,
            owner=owner,
            lease_s=settings.lease_s,
            log_ttl_s=settings.log_ttl_s,
            queue_ttl_s=settings.queue_ttl_s,
            dead_letters_max=settings.dead_letters_max,
            dead_letters=dead_letters,
        )

    async def claim(
        self,
        job_id: str,
        job: bytes,
        *,
        call: str,
        deadline_s: float,
        held_attempt: int = 0,
        only_queued: bool = False,
        trace: str = "",
        facts: Facts = NO_FACTS,
    ) -> Claim:
        """Begin an attempt if the job is free (``claim.lua``).

        ``call`` names this claim: sent again under this name, after a lost reply, it finds
        what it has begun. ``held_attempt`` is the caller's own attempt that gives way to
        the next; ``only_queued`` claims only a job whose record says that it waits. A record
        with another fingerprint than that of ``facts`` is a conflict.
        """
        # Until it ends a job may go back to the queue, and wait there once more.
        ttl_s = round(deadline_s) + self._queue_ttl_s
        keys = [names.state_key(job_id), names.log_key(job_id), names.DUE_JOBS, names.JOBS]
        owner = f"{self._owner}/{call}"
        args: list[Any] = [job_id, owner, self._lease_ms, ttl_s, job, held_attempt]
        args += (int(only_queued), trace, *facts.script_args())
        with _unreachable():
            reply: list[Any] = await self._records.call(_CLAIM, keys, args)
        status, attempt, seq, chunks, failed_attempts, cancel_reason, *times, before = reply
        created_ms, started_ms, now_ms, leased_ms = times
        return Claim(
            job_id=job_id,
            status=status.decode(),
            attempt=attempt,
            seq=seq,
            chunks=chunks,
            failed_attempts=failed_attempts,
            cancel_reason=cancel_reason.decode(),
            created_ms=created_ms,
            started_ms=started_ms,
            now_ms=now_ms,
            leased_ms=leased_ms,
            never_began=before == b"cancelled" and seq <= 1,
        )

    async def append(self, batch: list[Batch]) -> list[bool]:
        """Append and publish the events of many jobs (``append.lua``)."""
        keys: list[str] = [names.DUE_JOBS]
        args: list[Any] = []
        for part in batch:
            log = part.log
            keys += (names.state_key(log.job_id), names.log_key(log.job_id))
            args += (log.job_id, log.attempt, part.first_seq, len(part.events))
            args += (part.chunks, part.ending, self._log_ttl_s)
            args += part.events
        with _unreachable():
            reply: list[int] = await self._append.call(_APPEND, keys, args)
        return [taken == 1 for taken in reply]

    async def renew(self, held: Sequence[tuple[str, int]]) -> list[Renewal]:
        """Renew the leases of ``(job ID, attempt)``; says of each how it stands (``renew.lua``)."""
        args: list[Any] = [self._lease_ms]
        for job_id, attempt in held:
            args += (job_id, attempt)
        keys = [names.DUE_JOBS, *(names.state_key(job_id) for job_id, _ in held)]
        with _unreachable():
            reply: list[int] = await self._records.call(_RENEW, keys, args)
        return [_RENEWALS[code] for code in reply]

    async def release(self, job_id: str, attempt: int) -> None:
        """Hand a running job back (``release.lua``)."""
        keys = [names.state_key(job_id), names.DUE_JOBS]
        with _unreachable():
            await self._records.call(_RELEASE, keys, [job_id, attempt, self._lease_ms])

    async def clear_failure(self, job_id: str, attempt: int, *, failed_attempts: int) -> None:
        """Set the ``failed_attempts`` of a running job (``clear_failure.lua``)."""
        with _unreachable():
            await self._records.call(
                _CLEAR_FAILURE, [names.state_key(job_id)], [attempt, failed_attempts]
            )

    async def revoke(self, job_id: str, *, running: bool) -> bool:
        """Set the cancel flag of a job, known or not; one that runs only if ``running``.

        Returns whether the job waits by its record (``revoke.lua``).
        """
        args = [self._queue_ttl_s, int(running)]
        with _unreachable():
            reply: int = await self._records.call(_REVOKE, [names.state_key(job_id)], args)
        return reply == _WAITS

    async def due(self, limit: int) -> list[str]:
        """The IDs of up to ``limit`` jobs that are due in the watch.

        Members that are no job IDs are removed. A member whose score lies more than a day ahead
        is due, too: no script of ours writes such a score.
        """
        with _unreachable():
            seconds, micros = await self._redis.time()
            now_ms = seconds * 1000 + micros // 1000
            found = await self._watched("-inf", now_ms, limit)
            if len(found) < limit:
                found += await self._watched(now_ms + _DAY_MS, "+inf", limit - len(found))
            due = {member: as_job_id(member) for member in found}
            if foreign := [member for member, job_id in due.items() if job_id is None]:
                logger.error(
                    "%d members of %s are no job IDs: removed", len(foreign), names.DUE_JOBS
                )
                await self._redis.zrem(names.DUE_JOBS, *foreign)
        return [job_id for job_id in due.values() if job_id is not None]

    async def _watched(self, first: float | str, last: float | str, limit: int) -> list[bytes]:
        bounds: Any = (first, last)  # redis-py types them as integers
        try:
            found: Any = await self._redis.zrange(
                names.DUE_JOBS, bounds[0], bounds[1], byscore=True, offset=0, num=limit
            )
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            # Renewals and submissions write it anew.
            logger.error("%s is no sorted set: removed", names.DUE_JOBS)  # noqa: TRY400  # one line says all
            await self._redis.delete(names.DUE_JOBS)
            return []
        return list(found)

    async def up_s(self) -> float:
        """How long the server has been up, in whole seconds; for ever where it does not say."""
        if not self._has_info:
            return math.inf
        with _unreachable():
            try:
                told: dict[str, Any] = await self._redis.info("server")
            except ResponseError:  # not every service has it
                self._has_info = False
                return math.inf
        return float(told.get("uptime_in_seconds", math.inf))

    async def reap(
        self,
        job_id: str,
        *,
        again_running_s: float,
        again_queued_s: float,
        watermark_ms: int = QUEUE_EMPTY,
    ) -> Overdue | None:
        """Take a due job, for this caller alone (``reap.lua``)."""
        keys = [names.state_key(job_id), names.DUE_JOBS]
        with _unreachable():
            args: list[str | int] = [
                job_id,
                round(again_running_s * 1000),
                round(again_queued_s * 1000),
                watermark_ms,
            ]
            reply: list[Any] = await self._records.call(_REAP, keys, args)
        if not reply:
            return None
        was, job, trace = reply
        return Overdue(job_id, was.decode(), job, trace)

    async def forget(self, job_id: str) -> None:
        """Remove the record of a job that belongs to another store."""
        with _unreachable():
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.delete(names.state_key(job_id))
                pipeline.zrem(names.DUE_JOBS, job_id)
                await pipeline.execute()

    async def keep_cancel_flag(self, job_id: str) -> None:
        """Give a record that holds only somebody's ``cancel`` a TTL, as every key has one."""
        with _unreachable():
            await self._redis.expire(names.state_key(job_id), self._queue_ttl_s, nx=True)

    async def dead_letter(
        self,
        job_id: str | None,
        reason: str,
        *,
        call: str,
        job: bytes = b"",
        message: bytes = b"",
    ) -> None:
        """Add to the dead letters what could not be run, and why (``dead_letter_once.lua``).

        ``call`` names what is buried: another call with this name, within the time for which
        the record of a job that is over stays, changes nothing. ``job`` is a job object,
        ``message`` what stood on the queue where it held none.
        """
        letter: dict[str, str | bytes] = {"job_id": job_id or "", "reason": reason}
        letter |= {"job": job} if job else {"message": message}
        keys = [
            names.DEAD_LETTERS,
            f"{names.DEAD_LETTER_DEDUP}{hashlib.sha256(call.encode()).hexdigest()}",
        ]
        args: list[Any] = [self._log_ttl_s, self._dead_letters_max]
        args += itertools.chain.from_iterable(letter.items())
        with _unreachable():
            # Not EVALSHA: too rare for a script that is loaded ahead.
            await self._dead_letters.eval(_DEAD_LETTER, len(keys), *keys, *args)


def as_job_id(member: bytes) -> str | None:
    """Decode ``member``; return ``None`` if it is no job ID."""
    try:
        job_id = member.decode("ascii")
    except UnicodeDecodeError:
        return None
    return job_id if names.is_job_id(job_id) else None


class _Unreachable(contextlib.AbstractContextManager[None]):
    """redis-py's errors become the builtin one; an error reply too: full, loading, read-only."""

    # A class, no generator: this is done for each claim.
    __slots__ = ()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RedisError | OSError):
            raise ConnectionError(f"Redis: {error}") from error


_UNREACHABLE: Final = _Unreachable()


def _unreachable() -> _Unreachable:
    return _UNREACHABLE
