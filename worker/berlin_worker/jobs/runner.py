"""One delivery of one job, from its claim to its end: provider in, events out.

The parts, in order: ``acceptance`` checks the delivery, ``claiming`` claims the job,
``observation`` isolates its final attempt, ``attempts`` runs it, ``ending`` ends it if it
cannot run. ``lifecycle`` decides which event may follow, ``retry`` what follows a failure.
"""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from berlin_schemas import ErrorCode, PromptJob
from berlin_schemas.jobs import MAX_JOB_BYTES
from berlin_schemas.names import is_job_id
from berlin_worker.errors import Fenced, JobError
from berlin_worker.jobs.acceptance import Acceptance
from berlin_worker.jobs.attempt import Attempt
from berlin_worker.jobs.attempts import AttemptLoop
from berlin_worker.jobs.claiming import Claimer
from berlin_worker.jobs.cooldown import Cooldowns, NoCooldowns
from berlin_worker.jobs.ending import JobEnder
from berlin_worker.jobs.job_facts import facts_of
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import Leases
from berlin_worker.jobs.observation import is_final_attempt, under_observation
from berlin_worker.jobs.quarantine import Quarantine
from berlin_worker.jobs.retry import RetryPolicy
from berlin_worker.jobs.stopping import Stopper
from berlin_worker.jobs.store import Claim, JobStore
from berlin_worker.jobs.store_retry import retry_until_available
from berlin_worker.providers.base import Provider
from berlin_worker.providers.defaults import JobDefaults
from berlin_worker.telemetry import log_context, tracing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a delivery ended its job, with the error code if the job failed.

    ``dropped``: this delivery did not end the job; another one may.
    """

    status: Literal["completed", "failed", "cancelled", "dropped"]
    code: str = ""


COMPLETED: Final = Outcome("completed")
CANCELLED: Final = Outcome("cancelled")
DROPPED: Final = Outcome("dropped")


class Runner(JobEnder):
    """Runs deliveries, and ends jobs. One for a process; all jobs share it.

    ``provider`` returns the provider of a name or raises ``JobError``; for ``cancel_cause`` see
    :class:`~berlin_worker.jobs.stopping.Stopper`.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        journal: Journal,
        leases: Leases,
        provider: Callable[[str], Provider],
        policy: RetryPolicy,
        proxies: frozenset[str],
        cancel_cause: Callable[[], str | None],
        defaults: JobDefaults | None = None,
        quarantine: Quarantine | None = None,
        max_job_bytes: int = MAX_JOB_BYTES,
        read_on_s: float = 0.0,
        cooldowns: Cooldowns | None = None,
    ) -> None:
        stopper = Stopper(store, cancel_cause)
        claimer = Claimer(store, journal, leases, stopper)
        super().__init__(store, journal, leases, claimer, max_job_bytes=max_job_bytes)
        self.quarantine = quarantine or Quarantine()
        self._policy = policy
        self._stats = journal.stats
        self._read_on_s = read_on_s
        self._acceptance = Acceptance(provider, proxies, defaults or JobDefaults(), max_job_bytes)
        self._attempts = AttemptLoop(
            store,
            leases,
            claimer,
            stopper,
            provider,
            policy,
            journal.stats,
            cooldowns or NoCooldowns(),
        )

    async def run(
        self,
        job_id: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        *,
        redelivered: bool = False,
    ) -> Outcome:
        """Run the job of one delivery to its end, or drop the delivery if the job is not free.

        The worker of a ``redelivered`` job may be dead. If it is, this delivery is the place of the
        job in the queue, and waits here until the lease of that worker has expired.

        Raises ``CancelledError`` after a cancellation from outside, once the job has been ended
        or released; nothing else.
        """
        received = time.monotonic()
        if not is_job_id(job_id):
            return await self._drop_without_id()
        log_context.JOB.set((job_id, 0))
        self._stats.deliveries += 1
        try:
            job, data = self._acceptance.check(job_id, args, kwargs)
        except JobError as error:
            status = await self.refuse_delivery(job_id, error, args)
            self._processed(received, error.code.value)
            return Outcome("failed", error.code.value) if status == "claimed" else DROPPED
        facts = facts_of(args[0], job)

        def claim_again() -> Awaitable[Claim]:
            return self._claimer.claim(job_id, data, deadline_s=job.deadline_s, facts=facts)

        claim = await claim_again()
        if redelivered:
            claim = await self._claimer.wait_for_lease_expiry(claim, claim_again)
        if claim.status == "conflict":
            await self.dead_letter_reused(job_id, facts, data)
            tracing.current().ended("dropped")
            return DROPPED
        self._leases.advance_watermark(claim)
        policy = self._policy.with_fallbacks(len(job.fallbacks))
        if is_final_attempt(claim, policy):
            async with under_observation(
                claim,
                lambda: self._claimer.claim(job_id, b"", deadline_s=job.deadline_s),
                claimer=self._claimer,
                quarantine=self.quarantine,
                policy=policy,
            ) as claim:
                return await self._run_claimed(claim, job, data, received)
        return await self._run_claimed(claim, job, data, received)

    async def _drop_without_id(self) -> Outcome:
        logger.error("a message without a usable job ID went to the dead letters")
        call = secrets.token_hex(8)
        await retry_until_available(
            lambda: self._store.dead_letter(None, "invalid_job_id", call=call)
        )
        return Outcome("failed", ErrorCode.INVALID_JOB.value)

    async def _run_claimed(
        self, claim: Claim, job: PromptJob, data: bytes, received: float
    ) -> Outcome:
        if claim.status != "claimed":
            return self._drop(claim)
        self._stats.claimed(claim.attempt, (claim.started_ms - claim.created_ms) / 1000)
        recorded_s = (claim.now_ms - claim.created_ms) / 1000
        unrecorded_s = max(0.0, time.monotonic() - received - recorded_s)
        try:
            first = Attempt(
                claim, self._journal, unrecorded_s=unrecorded_s, read_on_s=self._read_on_s
            )
            last = await self._attempts.run(job, data, first)
            self._processed(received, last.error)
            return _outcome(last)
        except Fenced:
            logger.error(  # noqa: TRY400  # the line is complete, a traceback adds nothing
                "job %s: stopped, another attempt has it, or its record is gone", claim.job_id
            )
            tracing.current().ended("lost")
            return DROPPED

    def _drop(self, claim: Claim) -> Outcome:
        logger.info("job %s: this delivery is dropped, the job is %s", claim.job_id, claim.status)
        self._stats.dropped.add(claim.status)
        tracing.current().ended("dropped")
        # No other delivery reports the end of a job that was cancelled while it waited.
        return CANCELLED if claim.never_began else DROPPED

    def _processed(self, received: float, error: str) -> None:
        self._stats.processing.of(error).observe(time.monotonic() - received)


def _outcome(last: Attempt) -> Outcome:
    match last.ended:
        case "failed":
            return Outcome("failed", last.error)
        case "cancelled":
            return CANCELLED
        case _:
            return COMPLETED
