"""One delivery of one job: claim it, run its attempts, end it. Provider in, events out.

Knows provider, journal and store by their protocols alone; what may follow what is
decided in ``lifecycle``, what follows a failure in ``retry``.
"""

import asyncio
import contextlib
import hashlib
import itertools
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from berlin_schemas import ErrorCode, InvalidJob, PromptJob
from berlin_schemas.fingerprint import fingerprint
from berlin_schemas.jobs import dump_job, parse_job
from berlin_schemas.names import is_job_id
from berlin_worker.errors import Fenced, JobError, StoreUnavailable
from berlin_worker.jobs.attempt import Attempt, Stopped, internal_error
from berlin_worker.jobs.job_facts import NO_FACTS, Facts, facts_of
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import Claim, ClaimStatus, Leases, Store
from berlin_worker.jobs.observation import is_suspect, on_probation
from berlin_worker.jobs.pending_claims import PendingClaims
from berlin_worker.jobs.quarantine import Quarantine
from berlin_worker.jobs.retry import Again, Fail, Keep, RetryPolicy, decide
from berlin_worker.jobs.store_retry import answered
from berlin_worker.providers.base import Provider
from berlin_worker.providers.defaults import JobDefaults
from berlin_worker.telemetry import log_context, tracing

logger = logging.getLogger(__name__)

_claims: Final = itertools.count(1)
"""Numbers the claims of this process: with the name of its owner each has one of its own."""

_LOOK_AGAIN_S = 1.0
"""How often a delivery that waits for a lease looks whether it is renewed."""
_STOP_S = 5.0
"""How long a job that is cancelled from outside waits for Redis."""
_NO_DEADLINE_S = 600.0
"""For the record of a job that is over before it began, and so has no deadline of its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a delivery has done: how the job ended in it, with the error code if it failed.

    ``dropped``: the end of the job, if any, belongs to another delivery.
    """

    status: Literal["completed", "failed", "cancelled", "dropped"]
    code: str = ""


COMPLETED: Final = Outcome("completed")
CANCELLED: Final = Outcome("cancelled")
DROPPED: Final = Outcome("dropped")


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs deliveries. One for a process; everything in it is shared by all jobs.

    ``provider`` returns the provider of a name or raises ``JobError``; ``cancel_cause``
    tells a job whose task is being cancelled from outside why that is: ``revoked``,
    ``time_limit``, or else (a shutdown, a lost broker) the job is handed back.
    """

    store: Store
    journal: Journal
    leases: Leases
    provider: Callable[[str], Provider]
    policy: RetryPolicy
    proxies: frozenset[str]
    cancel_cause: Callable[[], str | None]
    defaults: JobDefaults = field(default_factory=JobDefaults)
    suspects: Quarantine = field(default_factory=Quarantine)
    arrivals: PendingClaims = field(default_factory=PendingClaims)

    async def run(
        self,
        job_id: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        *,
        redelivered: bool = False,
    ) -> Outcome:
        """Run the job of one delivery to its end, or drop the delivery if the job is not free.

        One that ``redelivered`` has had a worker before, which may be dead; if so, this is its
        place in the queue, and the delivery waits here until that worker's lease has run out.
        Raises ``CancelledError`` if it was cancelled from outside, after the job has been
        ended or handed back; nothing else.
        """
        received = time.monotonic()
        if not is_job_id(job_id):
            logger.error("a message without a usable job ID went to the dead letters")
            call = secrets.token_hex(8)
            await answered(lambda: self.store.dead_letter(None, "invalid_job_id", call=call))
            return Outcome("failed", ErrorCode.INVALID_JOB.value)
        log_context.JOB.set((job_id, 0))
        self.journal.stats.deliveries += 1
        try:
            job, data = self._check(job_id, args, kwargs)
        except (InvalidJob, JobError) as raised:
            error = (
                raised
                if isinstance(raised, JobError)
                else JobError(ErrorCode.INVALID_JOB, str(raised))
            )
            verdict = await self._refuse(job_id, error, args)
            self._processed(received, error.code.value)
            return Outcome("failed", error.code.value) if verdict == "claimed" else DROPPED
        facts = facts_of(args[0], job)

        def claim_it() -> Awaitable[Claim]:
            return self._claim(job_id, data, deadline_s=job.deadline_s, facts=facts)

        claim = await claim_it()
        if redelivered:
            claim = await self._wait_for_lease_expiry(claim, claim_it)
        if claim.verdict == "conflict":
            await self._dead_letter_reused(job_id, facts, data)
            tracing.current().ended("dropped")
            return DROPPED
        self.leases.saw(claim)
        if is_suspect(claim, self.policy):
            async with on_probation(
                claim,
                lambda: self._claim(job_id, b"", deadline_s=job.deadline_s),
                store=self.store,
                suspects=self.suspects,
                policy=self.policy,
            ) as claim:
                return await self._claimed(claim, job, data, received)
        return await self._claimed(claim, job, data, received)

    async def _claimed(self, claim: Claim, job: PromptJob, data: bytes, received: float) -> Outcome:
        if claim.verdict != "claimed":
            logger.info(
                "job %s: this delivery is dropped, the job is %s", claim.job_id, claim.verdict
            )
            self.journal.stats.dropped.add(claim.verdict)
            tracing.current().ended("dropped")
            # No other delivery reports the end of a job that was cancelled while it waited.
            return CANCELLED if claim.never_began else DROPPED
        self.journal.stats.claimed(claim.attempt, (claim.started_ms - claim.created_ms) / 1000)
        recorded_s = (claim.now_ms - claim.created_ms) / 1000
        unrecorded_s = max(0.0, time.monotonic() - received - recorded_s)
        try:
            first = Attempt(claim, self.journal, unrecorded_s=unrecorded_s)
            last = await self._run(job, data, first)
            self._processed(received, last.error)
            return _outcome(last)
        except Fenced:
            logger.error(  # noqa: TRY400  # what there is to say
                "job %s: stopped, another attempt has it, or its record is gone", claim.job_id
            )
            tracing.current().ended("lost")
            return DROPPED

    def _processed(self, received: float, error: str) -> None:
        self.journal.stats.processing.of(error).observe(time.monotonic() - received)

    async def _wait_for_lease_expiry(
        self, claim: Claim, claim_it: Callable[[], Awaitable[Claim]]
    ) -> Claim:
        """Claim again until the lease of another one has run out, or has been renewed."""
        job_id, until_ms = claim.job_id, claim.leased_ms
        while claim.verdict == "leased" and claim.leased_ms == until_ms:
            if self.leases.holder(job_id) is not None:
                break  # it never left: the connection broke, and not the worker
            left_s = (until_ms - claim.now_ms + 1) / 1000
            await asyncio.sleep(min(left_s, _LOOK_AGAIN_S))
            claim = await claim_it()
        return claim

    async def _refuse(self, job_id: str, refusal: JobError, args: Sequence[object]) -> ClaimStatus:
        facts = Facts(fingerprint(args[0] if len(args) == 1 else list(args)))
        verdict = await self.refuse(job_id, refusal, facts=facts)
        if verdict == "conflict":
            job = b""
            with contextlib.suppress(InvalidJob):
                job = dump_job({"args": args})
            await self._dead_letter_reused(job_id, facts, job)
        return verdict

    async def _dead_letter_reused(self, job_id: str, facts: Facts, job: bytes) -> None:
        """Keep a job that came under the ID of another one; that other job goes on untouched."""
        reason = "job_id_reused"
        logger.error(
            "job %s: a second job with this ID and another payload went to the dead letters; "
            "each job needs an ID of its own",
            job_id,
        )
        self.journal.stats.dropped.add("conflict")
        call = f"{job_id}/{reason}/{facts.fingerprint}"
        await answered(lambda: self.store.dead_letter(job_id, reason, call=call, job=job))

    async def cancel(self, job_id: str, reason: str, *, only_queued: bool = True) -> None:
        """End a job as ``cancelled``: at once if it runs here, or if it waits in the queue.

        With ``only_queued`` a job of which there is no record is left alone: its message
        may come later, and will find the flag that the canceller has set.
        """
        if self._cancel_here(job_id, reason):
            return
        if only_queued:
            await answered(lambda: self.store.keep_cancel_flag(job_id))
        claim = await self._claim(job_id, b"", deadline_s=_NO_DEADLINE_S, only_queued=only_queued)
        if claim.verdict == "claimed":
            with contextlib.suppress(Fenced):
                await Attempt(claim, self.journal).end_cancelled(reason)
        else:
            self._cancel_here(job_id, reason)  # it may have begun here since

    async def revoke(self, job_id: str, *, running: bool) -> None:
        """Note that Celery has revoked a job, so that no worker ever begins it.

        One that waits by its record ends at once, one that runs is cancelled if ``running``.
        """
        if await answered(lambda: self.store.revoke(job_id, running=running)):
            await self.cancel(job_id, "revoked")

    def _cancel_here(self, job_id: str, reason: str) -> bool:
        """Cancel the job if it is held here, or as soon as it is; says whether it is."""
        self.arrivals.cancel(job_id, reason)
        holder = self.leases.holder(job_id)
        if holder is not None:
            holder.cancel(reason)
        return holder is not None

    async def discard(self, job_id: object, reason: str, told: str, message: bytes) -> None:
        """Bury a message that is no delivery of a job; what has a usable ID is told so."""
        known = job_id if isinstance(job_id, str) and is_job_id(job_id) else None
        # The broker delivers it again if nobody could say that it is done.
        call = secrets.token_hex(8)
        if known is not None:
            call = f"{known}/{reason}/{hashlib.sha256(message).hexdigest()}"
        await answered(lambda: self.store.dead_letter(known, reason, call=call, message=message))
        if known is not None:
            # A message that nobody can read is not that of a job that has a record already.
            facts = Facts(hashlib.sha256(message).hexdigest()[:32])
            await self.refuse(known, JobError(ErrorCode.INVALID_JOB, told), facts=facts)

    async def refuse(
        self, job_id: str, refusal: JobError, *, facts: Facts = NO_FACTS
    ) -> ClaimStatus:
        """End a job as failed, unless somebody is at work on it, or its ID is that of another."""
        claim = await self._claim(job_id, b"", deadline_s=_NO_DEADLINE_S, facts=facts)
        if claim.verdict == "claimed":
            with contextlib.suppress(Fenced):
                await Attempt(claim, self.journal).end_failed(refusal)
        return claim.verdict

    def _check(
        self, job_id: str, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[PromptJob, bytes]:
        if len(args) != 1 or kwargs:
            raise InvalidJob("worker.generate takes one positional argument: the job object")
        job, data = parse_job(args[0], job_id)
        log_context.ABOUT.set(
            log_context.About(self.defaults.provider_of(job), job.model, job.tenant)
        )
        if job.proxy is not None and job.proxy not in self.proxies:
            raise InvalidJob("proxy: not on the operator's allow-list")
        try:
            named, (job, provider) = job, self.defaults.resolve(job, self.provider)
            if job is not named:
                log_context.ABOUT.set(log_context.About(job.provider, job.model, job.tenant))
            provider.check(job)
        except JobError:
            raise
        except Exception as error:  # noqa: BLE001  # a provider may be anybody's code
            raise internal_error(error, job_id) from None
        return job, data

    async def _run(self, job: PromptJob, data: bytes, attempt: Attempt) -> Attempt:
        """Run attempts until the job is over; returns the last one."""
        while True:
            log_context.JOB.set((attempt.claim.job_id, attempt.claim.attempt))
            with self.leases.holding(attempt.claim.job_id, attempt):
                try:
                    reason = await self._attempt(job, data, attempt)
                except asyncio.CancelledError:
                    await self._stopped(attempt)
                    return attempt
            if reason is None:
                return attempt
            # Not held any more: a renewal that is under way would take the next for a thief.
            attempt = await self._next(job, attempt, reason)

    async def _attempt(self, job: PromptJob, data: bytes, attempt: Attempt) -> ErrorCode | None:
        """Run one attempt, and wait if another is to follow: then returns why."""
        claim = attempt.claim
        if claim.strikes >= self.policy.max_attempts:
            await self._give_up(claim, data, attempt)
            return None
        if not await attempt.open(job):
            return None
        try:
            await attempt.stream(job, self.provider(job.provider))
        except JobError as error:
            match decide(
                error,
                tries=claim.strikes + 1,
                streaming=attempt.streaming,
                on_interrupt=job.on_interrupt,
                remaining_s=attempt.remaining_s(job),
                policy=self.policy,
                jitter=random.random(),  # noqa: S311  # spreads retries, keeps no secret
            ):
                case Fail(final):
                    await attempt.end_failed(final)
                case Keep():
                    await attempt.end_kept()
                case Again(delay_s):
                    logger.info(
                        "job %s: attempt %d ended with %s, the next follows in %.2f s",
                        *(claim.job_id, claim.attempt, error.code, delay_s),
                    )
                    self.journal.stats.retries.add(error.code.value)
                    tracing.current().retried(claim.attempt, error.code.value, delay_s)
                    # The store takes no event of an attempt once the next one has begun.
                    await attempt.flush()
                    await asyncio.sleep(delay_s)
                    return error.code
        return None

    async def _next(self, job: PromptJob, attempt: Attempt, reason: ErrorCode) -> Attempt:
        held = attempt.claim
        claim = await self._claim(
            held.job_id, b"", deadline_s=job.deadline_s, held_attempt=held.attempt
        )
        if claim.verdict != "claimed":
            raise Fenced(held.job_id)
        return attempt.next(claim, reason=reason)

    async def _give_up(self, claim: Claim, data: bytes, attempt: Attempt) -> None:
        # One letter, also where this attempt is lost too, before it could say that it gives up.
        reason = ErrorCode.TOO_MANY_ATTEMPTS.value
        call = f"{claim.job_id}/{reason}/{claim.created_ms}"
        await answered(lambda: self.store.dead_letter(claim.job_id, reason, call=call, job=data))
        told = f"{claim.strikes} attempts ended with the loss of their worker"
        await attempt.end_failed(JobError(ErrorCode.TOO_MANY_ATTEMPTS, told))

    async def _stopped(self, attempt: Attempt) -> None:
        """The task of the job was cancelled: by the attempt itself, or from outside."""
        if attempt.stopped is not None:
            task = asyncio.current_task()
            assert task is not None  # a coroutine always runs in one
            task.uncancel()
            if attempt.over:
                await attempt.flush()  # too late: the last event is on its way
            elif attempt.stopped.cancel_reason is not None:
                await attempt.end_cancelled(attempt.stopped.cancel_reason)
            else:
                raise Fenced(attempt.claim.job_id)
            return
        # Whoever else wants it stopped from now on is late: the end is under way.
        attempt.stopped = Stopped(None)
        # Where Redis is away too, the lease runs out instead.
        with contextlib.suppress(TimeoutError, ConnectionError, Fenced):
            async with asyncio.timeout(_STOP_S):
                await self._stopped_from_outside(attempt)
        raise asyncio.CancelledError

    async def _stopped_from_outside(self, attempt: Attempt) -> None:
        cause = self.cancel_cause()
        if attempt.over:
            await attempt.flush()
        elif cause == "revoked":
            await attempt.end_cancelled("revoked")
        elif cause == "time_limit":
            await attempt.end_failed(time_limit_passed())
        else:
            await attempt.flush()
            await self.store.release(attempt.claim.job_id, attempt.claim.attempt)

    async def _claim(
        self,
        job_id: str,
        data: bytes,
        *,
        deadline_s: float,
        held_attempt: int = 0,
        only_queued: bool = False,
        facts: Facts = NO_FACTS,
    ) -> Claim:
        call = str(next(_claims))

        def claimed() -> Awaitable[Claim]:
            return answered(
                lambda: self.store.claim(
                    job_id,
                    data,
                    call=call,
                    deadline_s=deadline_s,
                    held_attempt=held_attempt,
                    only_queued=only_queued,
                    trace=tracing.current().carrier,
                    facts=facts,
                )
            )

        try:
            # Who claims a job holds it before anything else happens here.
            with self.arrivals.expected(job_id) as arrival:
                claim = await claimed()
            reason = arrival.cancel_reason or claim.cancel_reason
            return replace(claim, cancel_reason=reason) if reason else claim
        except asyncio.CancelledError:
            # A claim that nobody knows of would keep the job from all others for a lease. Made
            # again under its name, it finds what it has begun.
            with contextlib.suppress(TimeoutError, StoreUnavailable):
                async with asyncio.timeout(_STOP_S):
                    claim = await claimed()
                if claim.verdict == "claimed":
                    await self._stopped(Attempt(claim, self.journal))
            raise


def _outcome(last: Attempt) -> Outcome:
    match last.ended:
        case "failed":
            return Outcome("failed", last.error)
        case "cancelled":
            return CANCELLED
        case _:
            return COMPLETED


def time_limit_passed() -> JobError:
    """What a job fails with that ran into a time limit of Celery's."""
    told = "the worker's time limit has passed"
    return JobError(ErrorCode.DEADLINE_EXCEEDED, told, retryable=True)
