"""The records of jobs: what a claim returns, and what ``jobs/`` requires of their store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, Self

from berlin_schemas.jobs import MAX_JOB_BYTES, InvalidJob
from berlin_worker.jobs.job_facts import NO_FACTS, Facts
from berlin_worker.jobs.usage import add_usage

QUEUE_EMPTY: Final = 1 << 53
"""A watermark (ms) later than any time: from an empty queue every job has been consumed."""

ClaimStatus = Literal["claimed", "finished", "leased", "not_queued", "conflict"]
Renewal = Literal["renewed", "lost", "requested", "revoked"]
"""The last two: renewed, and the job is to be cancelled for this reason."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a job that its attempts leave to the next one.

    ``usage`` is the sum of what they have reported; ``fallback`` counts the fallbacks that they
    have gone to.
    """

    usage: Mapping[str, Any]
    fallback: int

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return what a record holds; any client may have written it."""
        usage, fallback = found.get("usage"), found.get("fallback")
        return cls(
            usage=add_usage(usage if isinstance(usage, dict) else {}, {}),
            fallback=fallback if type(fallback) is int and fallback > 0 else 0,
        )

    def after(self, usage: Mapping[str, Any] | None, *, fallback: int) -> Self:
        """Return the progress after an attempt that has reported ``usage``.

        The candidate ``fallback`` follows, 0 being the job itself.
        """
        return type(self)(add_usage(self.usage, usage or {}), fallback)


NO_PROGRESS: Final = Progress({}, 0)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of a job, and the record of the job at that time; times in ms.

    - ``owner`` names this claim alone, and the store compares it: after a failover that lost a
      claim, the next one has the same ``attempt``.
    - ``seq`` and ``chunks`` (since the last reset) are those of earlier attempts.
    - ``failed_attempts`` counts the attempts before this one that did not end well.
    - ``cancel_reason``: why the job is to be cancelled; empty if it is not.
    - ``leased_ms``: when the lease of another attempt runs out, unless it is renewed; 0 if no
      attempt has one.
    - ``lost_after_ms``: how long the last attempt that lost its worker is known to have run; 0 if
      there was none.
    - ``never_began``: the job was cancelled before its first attempt opened.
    """

    job_id: str
    status: ClaimStatus
    attempt: int
    owner: str
    seq: int
    chunks: int
    failed_attempts: int
    cancel_reason: str
    created_ms: int
    started_ms: int
    now_ms: int
    leased_ms: int = 0
    lost_after_ms: int = 0
    never_began: bool = False
    progress: Progress = NO_PROGRESS


@dataclass(frozen=True, slots=True)
class Overdue:
    """A job that was due: its status until then, and its job object as JSON.

    ``trace`` is the trace carrier of its record: see ``telemetry.tracing.from_carrier``.
    """

    job_id: str
    was: Literal["running", "queued"]
    job: bytes
    trace: bytes = b""


class JobStore(Protocol):
    """The records of jobs. Each call raises ``ConnectionError`` while Redis cannot answer."""

    async def claim(
        self,
        job_id: str,
        job: bytes,
        *,
        call: str,
        deadline_s: float,
        held: str = "",
        only_queued: bool = False,
        trace: str = "",
        facts: Facts = NO_FACTS,
    ) -> Claim:
        """Begin an attempt if the job is free; that of the owner ``held`` gives way to it.

        ``call`` names this claim: repeated under this name, it finds what it has begun.
        The record keeps ``trace``, for :class:`Overdue`, and ``facts``.
        """

    async def release(self, job_id: str, owner: str) -> None:
        """Release a running job: the next claim gets it at once."""

    async def clear_failure(
        self, job_id: str, owner: str, *, failed_attempts: int, at_most: int
    ) -> bool:
        """Set the ``failed_attempts`` of a running job, up to ``at_most`` times for each job.

        Returns whether they were set.
        """

    async def save_progress(self, job_id: str, owner: str, progress: Progress) -> None:
        """Keep ``progress`` in the record of a running job, for the next claim."""

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
        """Give a record that holds nothing but a cancel flag a TTL."""

    async def revoke(self, job_id: str, *, running: bool) -> bool:
        """Set the cancel flag of a job; that of a running job only if ``running``.

        Returns whether the job waits.
        """

    async def renew(self, held: Sequence[tuple[str, str]], *, index: bool) -> list[Renewal]:
        """Renew the leases of ``(job ID, owner)``; returns a result for each.

        With ``index`` also restore or move their entries in the index of unfinished jobs.
        """

    async def due(self, limit: int) -> list[str]:
        """Return the IDs of up to ``limit`` jobs that are due."""

    async def take_turn(self, for_s: float) -> bool:
        """Return whether this caller alone looks for due jobs for the next ``for_s``."""

    async def update_index(self) -> None:
        """Write what other calls have changed in the index of unfinished jobs."""

    async def heal_index(self) -> None:
        """Restore lost entries of that index."""

    async def up_s(self) -> float:
        """Return for how long (s) the store has been up."""

    async def reap(
        self, job_id: str, *, again_running_s: float, again_queued_s: float, watermark_ms: int
    ) -> Overdue | None:
        """Take a due job, for this caller alone; it is due again after one of the two times.

        A job that waits is taken only if it was put on the queue before ``watermark_ms``, or if
        :meth:`requeued` did not follow the last time that it was taken.
        """

    async def requeued(self, job_id: str) -> None:
        """Note that a job that was taken is on the queue."""


def recorded_job(data: bytes, *, max_bytes: int = MAX_JOB_BYTES) -> dict[str, Any]:
    """Return the job object that a record holds as JSON; raises :class:`InvalidJob`."""
    if not data:
        raise InvalidJob("it holds no job object")
    if len(data) > 2 * max_bytes:  # our own is compact; escapes make it longer
        raise InvalidJob(f"its job object has {len(data)} bytes")
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidJob("its job object is no JSON") from None
    if not isinstance(found, dict):
        raise InvalidJob("its job object is no JSON object")
    return found
