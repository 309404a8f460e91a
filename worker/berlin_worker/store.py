"""The truth about jobs in Redis: records, leases, logs. Runs the Lua scripts and decides nothing.

Every method raises the builtin ``ConnectionError`` while Redis cannot be reached or
refuses to write; each may then be called again with the same arguments.
"""

import contextlib
import hashlib
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from berlin_schemas import names
from berlin_worker.facts import NO_FACTS, Facts
from berlin_worker.journal import Batch
from berlin_worker.leases import NOTHING_WAITS, Claim, Overdue, Renewal
from berlin_worker.lua import source
from berlin_worker.script_connection import ScriptConnection, SharedScriptConnection

_APPEND: Final = source("append")
_CLAIM: Final = source("claim")
_RENEW: Final = source("renew")
_RELEASE: Final = source("release")
_REAP: Final = source("reap")
_PARDON: Final = source("pardon")
_BURY: Final = source("bury")
_RENEWALS: Final[tuple[Renewal, ...]] = ("renewed", "lost", "cancel")


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
        self._records = SharedScriptConnection(pool, _CLAIM, _RENEW, _RELEASE, _REAP, _PARDON)

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
        keys = [names.state_key(job_id), names.log_key(job_id), names.WATCH, names.JOBS]
        owner = f"{self._owner}/{call}"
        args: list[Any] = [job_id, owner, self._lease_ms, ttl_s, job, held_attempt]
        args += (int(only_queued), trace, *facts.script_args())
        with _unreachable():
            reply: list[Any] = await self._records.call(_CLAIM, keys, args)
        verdict, attempt, seq, chunks, strikes, cancel, *times = reply
        created_ms, started_ms, now_ms, leased_ms = times
        return Claim(
            job_id=job_id,
            verdict=verdict.decode(),
            attempt=attempt,
            seq=seq,
            chunks=chunks,
            strikes=strikes,
            cancel=bool(cancel),
            created_ms=created_ms,
            started_ms=started_ms,
            now_ms=now_ms,
            leased_ms=leased_ms,
        )

    async def append(self, batch: list[Batch]) -> list[bool]:
        """Append and publish the events of many jobs (``append.lua``)."""
        keys: list[str] = [names.WATCH]
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
        keys = [names.WATCH, *(names.state_key(job_id) for job_id, _ in held)]
        with _unreachable():
            reply: list[int] = await self._records.call(_RENEW, keys, args)
        return [_RENEWALS[code] for code in reply]

    async def release(self, job_id: str, attempt: int) -> None:
        """Hand a running job back (``release.lua``)."""
        keys = [names.state_key(job_id), names.WATCH]
        with _unreachable():
            await self._records.call(_RELEASE, keys, [job_id, attempt, self._lease_ms])

    async def pardon(self, job_id: str, attempt: int, *, strikes: int) -> None:
        """Leave a running job with so many ``strikes`` (``pardon.lua``)."""
        with _unreachable():
            await self._records.call(_PARDON, [names.state_key(job_id)], [attempt, strikes])

    async def due(self, limit: int) -> list[str]:
        """The IDs of up to ``limit`` jobs that are due in the watch."""
        with _unreachable():
            seconds, micros = await self._redis.time()
            now_ms = seconds * 1000 + micros // 1000
            found: list[Any] = await self._redis.zrange(
                names.WATCH, 0, now_ms, byscore=True, offset=0, num=limit
            )
        return [job_id.decode() for job_id in found]

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
        passed_ms: int = NOTHING_WAITS,
    ) -> Overdue | None:
        """Take a due job, for this caller alone (``reap.lua``)."""
        keys = [names.state_key(job_id), names.WATCH]
        with _unreachable():
            args: list[str | int] = [
                job_id,
                round(again_running_s * 1000),
                round(again_queued_s * 1000),
                passed_ms,
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
                pipeline.zrem(names.WATCH, job_id)
                await pipeline.execute()

    async def keep_cancel_flag(self, job_id: str) -> None:
        """Give a record that holds only somebody's ``cancel`` a TTL, as every key has one."""
        with _unreachable():
            await self._redis.expire(names.state_key(job_id), self._queue_ttl_s, nx=True)

    async def bury(
        self,
        job_id: str | None,
        reason: str,
        *,
        call: str,
        job: bytes = b"",
        message: bytes = b"",
    ) -> None:
        """Add to the dead letters what could not be run, and why (``bury.lua``).

        ``call`` names what is buried: another call with this name, within the time for which
        the record of a job that is over stays, changes nothing. ``job`` is a job object,
        ``message`` what stood on the queue where it held none.
        """
        letter: dict[str, str | bytes] = {"job_id": job_id or "", "reason": reason}
        letter |= {"ts": f"{time.time():.3f}", **({"job": job} if job else {"message": message})}
        keys = [names.DEAD_LETTERS, f"{names.BURIED}{hashlib.sha256(call.encode()).hexdigest()}"]
        args: list[Any] = [self._log_ttl_s, self._dead_letters_max]
        args += itertools.chain.from_iterable(letter.items())
        with _unreachable():
            # Not EVALSHA: too rare for a script that is loaded ahead.
            await self._dead_letters.eval(_BURY, len(keys), *keys, *args)


@contextlib.contextmanager
def _unreachable() -> Iterator[None]:
    """redis-py's errors become the builtin one; an error reply too: full, loading, read-only."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise ConnectionError(f"Redis: {error}") from error
