"""Ends jobs that no provider runs: refused, cancelled, revoked, or unreadable."""

import contextlib
import hashlib
import logging
import secrets
from collections.abc import Sequence

from berlin_schemas import ErrorCode, InvalidJob
from berlin_schemas.fingerprint import fingerprint
from berlin_schemas.jobs import MAX_JOB_BYTES, dump_job
from berlin_schemas.names import is_job_id
from berlin_worker.errors import Fenced, JobError
from berlin_worker.jobs.attempt import Attempt
from berlin_worker.jobs.claiming import Claimer
from berlin_worker.jobs.job_facts import NO_FACTS, Facts
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import Leases
from berlin_worker.jobs.store import ClaimStatus, JobStore
from berlin_worker.jobs.store_retry import retry_until_available

logger = logging.getLogger(__name__)

_NO_DEADLINE_S = 600.0
"""For the record of a job that ends before it begins, and so has no deadline of its own."""


class JobEnder:
    """Ends jobs by their ID, whether they wait, run in this process, or have no record."""

    def __init__(
        self,
        store: JobStore,
        journal: Journal,
        leases: Leases,
        claimer: Claimer,
        *,
        max_job_bytes: int = MAX_JOB_BYTES,
    ) -> None:
        self._max_job_bytes = max_job_bytes
        self._store = store
        self._journal = journal
        self._leases = leases
        self._claimer = claimer

    async def cancel(self, job_id: str, reason: str, *, only_queued: bool = True) -> None:
        """End a job as ``cancelled``: at once if it runs here, or if it waits in the queue.

        With ``only_queued`` a job without a record is left alone: its message may come later,
        and its claim will find the cancel flag that the client has set.
        """
        if self._cancel_here(job_id, reason):
            return
        if only_queued:
            await retry_until_available(lambda: self._store.keep_cancel_flag(job_id))
        claim = await self._claimer.claim(
            job_id, b"", deadline_s=_NO_DEADLINE_S, only_queued=only_queued
        )
        if claim.status == "claimed":
            with contextlib.suppress(Fenced):
                await Attempt(claim, self._journal).end_cancelled(reason)
        else:
            self._cancel_here(job_id, reason)  # it may have begun here in the meantime

    async def revoke(self, job_id: str, *, running: bool) -> None:
        """Record that Celery has revoked a job, so that no worker ever begins it.

        A job that waits by its record ends at once; one that runs is cancelled if ``running``.
        """
        if await retry_until_available(lambda: self._store.revoke(job_id, running=running)):
            await self.cancel(job_id, "revoked")

    async def discard(
        self, job_id: object, reason: str, detail: str, message: bytes, *, is_record: bool = False
    ) -> None:
        """Make a dead letter of a message that is no delivery of a job.

        If it has a usable job ID, that job ends as ``failed`` with ``detail``. ``is_record``: the
        message is what the record of the job holds.
        """
        usable = job_id if isinstance(job_id, str) and is_job_id(job_id) else None
        # The broker delivers the message again if its acknowledgement is lost.
        call = secrets.token_hex(8)
        if usable is not None:
            call = f"{usable}/{reason}/{hashlib.sha256(message).hexdigest()}"
        await retry_until_available(
            lambda: self._store.dead_letter(usable, reason, call=call, message=message)
        )
        if usable is not None:
            # A job that has a record already has another message than this unreadable one.
            of_message = Facts(_digest(message))
            facts = NO_FACTS if is_record else of_message
            await self.refuse(usable, JobError(ErrorCode.INVALID_JOB, detail), facts=facts)

    async def refuse(
        self, job_id: str, refusal: JobError, *, facts: Facts = NO_FACTS
    ) -> ClaimStatus:
        """End a job as failed, unless an attempt works on it, or its ID is another job's."""
        claim = await self._claimer.claim(job_id, b"", deadline_s=_NO_DEADLINE_S, facts=facts)
        if claim.status == "claimed":
            with contextlib.suppress(Fenced):
                await Attempt(claim, self._journal).end_failed(refusal)
        return claim.status

    async def refuse_delivery(
        self, job_id: str, refusal: JobError, args: Sequence[object]
    ) -> ClaimStatus:
        """End the job of a delivery as failed; a reused job ID makes it a dead letter."""
        job = b""
        with contextlib.suppress(InvalidJob):
            job = dump_job({"args": args}, max_bytes=self._max_job_bytes)
        # Without a fingerprint (nested too deeply) the claim would compare nothing, and so end
        # whatever job has this ID.
        own = fingerprint(args[0] if len(args) == 1 else list(args))
        facts = Facts(own or _digest(job))
        status = await self.refuse(job_id, refusal, facts=facts)
        if status == "conflict":
            await self.dead_letter_reused(job_id, facts, job)
        return status

    async def dead_letter_reused(self, job_id: str, facts: Facts, job: bytes) -> None:
        """Make a dead letter of a second job with a used ID; the first job stays untouched."""
        reason = "job_id_reused"
        logger.error(
            "job %s: a second job with this ID and another payload went to the dead letters; "
            "each job needs an ID of its own",
            job_id,
        )
        self._journal.stats.dropped.add("conflict")
        call = f"{job_id}/{reason}/{facts.fingerprint}"
        await retry_until_available(
            lambda: self._store.dead_letter(job_id, reason, call=call, job=job)
        )

    def _cancel_here(self, job_id: str, reason: str) -> bool:
        """Cancel the job if this process holds or claims it; returns whether it holds it."""
        self._claimer.pending.cancel(job_id, reason)
        holder = self._leases.holder(job_id)
        if holder is not None:
            holder.cancel(reason)
        return holder is not None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
