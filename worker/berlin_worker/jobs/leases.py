"""Leases: a worker that is alive keeps its jobs, and a dead worker's jobs come back.

Renewing runs on the event loop that runs the jobs, so a process whose loop hangs
counts as dead. Reaping is done by every worker; each overdue job is taken by one.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from berlin_schemas.jobs import MAX_JOB_BYTES, InvalidJob, dump_job
from berlin_worker.jobs.job_facts import NO_FACTS, Facts
from berlin_worker.telemetry.stats import Stats

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 500
"""Jobs looked at in one turn of the reaper."""

_RENEWED_AT_ONCE: Final = 100
"""Leases renewed by one call: it holds up the server, and with it every event, while it runs."""

_QUEUED_AGAIN_S: Final = 30.0
"""How often a job that waits is looked at, in case its message has been lost."""

QUEUE_EMPTY: Final = 1 << 53
"""As a time in ms, later than any: an empty queue has passed every job by."""

ClaimStatus = Literal["claimed", "over", "leased", "unknown", "conflict"]
Renewal = Literal["renewed", "lost", "requested", "revoked"]
"""The last two: renewed, and the job is to be cancelled for this reason."""
Discard = Callable[[str, str, str, bytes], Awaitable[None]]
"""Ends a job that can never run; called with job ID, reason, text for its reader, dead letter."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the record of a job said when an attempt was (or was not) begun; times in ms.

    ``seq`` and ``chunks`` (since the last reset) stand as earlier attempts left them;
    ``strikes`` counts the attempts before this one that did not end well. ``leased_ms`` is when
    the lease of another one will have run out, unless it is renewed; 0 where nobody has one.
    ``cancel_reason``: why the job is to be cancelled; empty if it is not.
    ``never_began``: the job is over, cancelled before its first attempt had opened.
    """

    job_id: str
    verdict: ClaimStatus
    attempt: int
    seq: int
    chunks: int
    strikes: int
    cancel_reason: str
    created_ms: int
    started_ms: int
    now_ms: int
    leased_ms: int = 0
    never_began: bool = False


@dataclass(frozen=True, slots=True)
class Overdue:
    """A job that was due in the watch: what it was, and its job object as JSON.

    ``trace`` is the trace carrier of its record: see ``telemetry.tracing.from_carrier``.
    """

    job_id: str
    was: Literal["running", "queued"]
    job: bytes
    trace: bytes = b""


class Store(Protocol):
    """The records of jobs. Each call raises ``ConnectionError`` while Redis cannot answer."""

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
        """Begin an attempt if the job is free; ``held_attempt`` gives way to its next one.

        ``call`` names this claim: made again under this name, it finds what it has begun.
        ``trace`` is kept in its record, for :class:`Overdue`, and so are ``facts``.
        """

    async def release(self, job_id: str, attempt: int) -> None:
        """Hand a running job back, for the next claim to get at once."""

    async def clear_failure(self, job_id: str, attempt: int, *, strikes: int) -> None:
        """Leave a running job with so many ``strikes``."""

    async def dead_letter(
        self,
        job_id: str | None,
        reason: str,
        *,
        call: str,
        job: bytes = b"",
        message: bytes = b"",
    ) -> None:
        """Add to the dead letters what could not be run; once for each ``call``."""

    async def keep_cancel_flag(self, job_id: str) -> None:
        """Give a record that holds only somebody's ``cancel`` a TTL."""

    async def revoke(self, job_id: str, *, running: bool) -> bool:
        """Set the cancel flag of a job; says whether it waits. One that runs: if ``running``."""

    async def renew(self, held: Sequence[tuple[str, int]]) -> list[Renewal]:
        """Renew the leases of ``(job ID, attempt)``; says of each how it stands."""

    async def due(self, limit: int) -> list[str]:
        """The IDs of up to ``limit`` jobs that should be looked at."""

    async def up_s(self) -> float:
        """How long ago the store was started."""

    async def reap(
        self, job_id: str, *, again_running_s: float, again_queued_s: float, watermark_ms: int
    ) -> Overdue | None:
        """Take a due job, for this caller alone; when it is due again depends on what it was.

        A job that waits is taken only if it was put on the queue before ``watermark_ms``.
        """


class Holder(Protocol):
    """Who works on a job."""

    attempt: int

    def lost(self) -> None:
        """Another attempt owns the job, or its record is gone: stop, say nothing."""

    def cancel(self, reason: str) -> None:
        """Somebody wants the job cancelled."""


class JobQueue(Protocol):
    """The job queue. Each call raises ``ConnectionError`` while the broker cannot answer."""

    async def ring(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Put the message of a job on the queue again."""

    async def waiting(self) -> int:
        """How many messages wait on the queue."""


def recorded_job(data: bytes) -> dict[str, Any]:
    """The job object that a record holds as JSON; raises :class:`InvalidJob`."""
    if not data:
        raise InvalidJob("it holds no job object")
    if len(data) > 2 * MAX_JOB_BYTES:  # our own is compact; escapes make it longer
        raise InvalidJob(f"its job object has {len(data)} bytes")
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidJob("its job object is no JSON") from None
    if not isinstance(found, dict):
        raise InvalidJob("its job object is no JSON object")
    return found


class _Holding(AbstractContextManager[None]):
    # A class, no generator: this is done for each attempt.
    __slots__ = ("_held", "_holder", "_job_id")

    def __init__(self, held: dict[str, Holder], job_id: str, holder: Holder) -> None:
        self._held = held
        self._job_id = job_id
        self._holder = holder

    def __enter__(self) -> None:
        self._held[self._job_id] = self._holder

    def __exit__(self, *_: object) -> None:
        # Unless a later delivery in this very process has claimed the job since.
        if self._held.get(self._job_id) is self._holder:
            del self._held[self._job_id]


class Leases:
    """The leases of one process."""

    def __init__(
        self,
        store: Store,
        *,
        lease_s: float,
        renew_interval_s: float,
        reap_interval_s: float,
        doorbell: JobQueue,
        discard: Discard,
        stats: Stats | None = None,
    ) -> None:
        self._store = store
        self._lease_s = lease_s
        self._renew_interval_s = renew_interval_s
        self._reap_interval_s = reap_interval_s
        self._doorbell = doorbell
        self._discard = discard
        self._stats = stats or Stats()
        self._held: dict[str, Holder] = {}
        self._reachable_since: float | None = -math.inf
        self._unrung: Overdue | None = None
        self._answered_at = time.monotonic()
        self._passed_ms = 0

    def saw(self, claim: Claim) -> None:
        """Note how far the queue has come: what was submitted before this job is not on it.

        Only a job that had its record before it was claimed tells when it was submitted.
        """
        if claim.attempt == 1 and claim.created_ms < claim.now_ms:
            self._passed_ms = max(self._passed_ms, claim.created_ms)

    def holding(self, job_id: str, holder: Holder) -> AbstractContextManager[None]:
        """Renew the lease of a claimed job for as long as a ``with`` block runs."""
        return _Holding(self._held, job_id, holder)

    def holder(self, job_id: str) -> Holder | None:
        """Who works on the job in this process."""
        return self._held.get(job_id)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def silent_s(self) -> float:
        """How long the store has not answered; it is asked once in ``reap_interval_s``."""
        return time.monotonic() - self._answered_at

    async def renew_forever(self) -> None:
        """Renew every ``renew_interval_s`` until cancelled, spread over half of that time."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            due = max(due + self._renew_interval_s, clock())
            await asyncio.sleep(due - clock())
            try:
                await self._renew_all(within_s=self._renew_interval_s / 2)
            except ConnectionError as error:
                self._reachable_since = None
                logger.warning("leases cannot be renewed: %s", error)

    async def reap_forever(self) -> None:
        """Every ``reap_interval_s`` put overdue jobs back on the queue, until cancelled."""
        while True:
            await asyncio.sleep(self._reap_interval_s)
            try:
                await self._reap_all()
            except ConnectionError as error:
                self._reachable_since = None
                logger.warning("expired leases cannot be looked for: %s", error)

    async def _renew_all(self, *, within_s: float = 0.0) -> None:
        held = list(self._held.items())
        pause_s = within_s * _RENEWED_AT_ONCE / max(len(held), 1)
        for start in range(0, len(held), _RENEWED_AT_ONCE):
            part = held[start : start + _RENEWED_AT_ONCE]
            if start:
                await asyncio.sleep(pause_s)
            replies = await self._store.renew([(job_id, each.attempt) for job_id, each in part])
            self._answered_at = time.monotonic()
            for (job_id, holder), reply in zip(part, replies, strict=True):
                if self._held.get(job_id) is not holder:
                    continue  # it has ended, or given way to its next attempt, meanwhile
                if reply == "lost":
                    self._stats.leases_lost += 1
                    holder.lost()
                elif reply != "renewed":
                    holder.cancel(reply)

    async def _reap_all(self) -> None:
        if self._unrung is not None:
            await _contained(self._unrung.job_id, self._ring(self._unrung))
        job_ids = await self._store.due(_AT_ONCE)
        self._answered_at = time.monotonic()
        now = asyncio.get_running_loop().time()
        if self._reachable_since is None:
            self._reachable_since = now
        if now - self._reachable_since < self._lease_s:
            # After an outage nobody could renew: give the living a lease's time to do it.
            return
        if not job_ids or await self._store.up_s() < self._lease_s:
            # A worker that has just started saw no outage, but the store may know of one.
            return
        # The message of a job that waits is most likely on the queue, unless a later one has
        # been taken from it: a queue that is never empty must not hide a message that is lost.
        watermark_ms = self._passed_ms if await self._doorbell.waiting() else QUEUE_EMPTY
        for job_id in job_ids:
            await _contained(job_id, self._reap(job_id, watermark_ms))

    async def _reap(self, job_id: str, watermark_ms: int) -> None:
        overdue = await self._store.reap(
            job_id,
            again_running_s=self._lease_s,
            again_queued_s=_QUEUED_AGAIN_S,
            watermark_ms=watermark_ms,
        )
        if overdue is not None:
            await self._ring(overdue)

    async def _ring(self, overdue: Overdue) -> None:
        # The record says "queued" by now, so nobody else would ring while others wait.
        self._unrung = overdue
        try:
            # A record may hold anything: what JSON cannot say again is not sent.
            dump_job(recorded_job(overdue.job))
            await self._doorbell.ring(overdue.job_id, overdue.job, overdue.trace)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001  # belongs to this job alone
            self._unrung = None
            detail = str(error) if isinstance(error, InvalidJob) else type(error).__name__
            logger.error("job %s has a record that cannot run: %s", overdue.job_id, detail)  # noqa: TRY400  # one line says all
            await self._discard(
                overdue.job_id,
                "invalid_record",
                f"the record of the job cannot run: {detail}",
                overdue.job[: 2 * MAX_JOB_BYTES],
            )
            return
        self._unrung = None
        self._stats.reaped.add(overdue.was)
        logger.info(
            "job %s was %s and overdue: back on the queue",
            *(overdue.job_id, overdue.was),
            extra={"job_id": overdue.job_id},
        )


async def _contained(job_id: str, work: Awaitable[None]) -> None:
    """Await ``work``; an error of one job is logged, and holds up no other job."""
    try:
        await work
    except ConnectionError:
        raise
    except Exception:
        logger.exception("job %s was due and cannot be looked at", job_id)
