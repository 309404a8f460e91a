"""Runs the attempts of a claimed job, one after the other, until the job has ended."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from berlin_schemas import ErrorCode, PromptJob
from berlin_worker.errors import Fenced, JobError
from berlin_worker.jobs.attempt import Attempt
from berlin_worker.jobs.candidates import candidates
from berlin_worker.jobs.claiming import Claimer
from berlin_worker.jobs.cooldown import Cooldowns, choose, cooldown_s, still_cooling
from berlin_worker.jobs.leases import Leases
from berlin_worker.jobs.retry import (
    Fail,
    FallBack,
    KeepPartial,
    Retry,
    RetryPolicy,
    decide_retry,
    spread_s,
)
from berlin_worker.jobs.stopping import Stopper
from berlin_worker.jobs.store import JobStore
from berlin_worker.jobs.store_retry import retry_until_available
from berlin_worker.providers.base import Provider
from berlin_worker.telemetry import log_context, tracing
from berlin_worker.telemetry.stats import Stats

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AttemptLoop:
    """Runs attempts; ``provider`` returns the provider of a name or raises ``JobError``."""

    store: JobStore
    leases: Leases
    claimer: Claimer
    stopper: Stopper
    provider: Callable[[str], Provider]
    policy: RetryPolicy
    stats: Stats
    cooldowns: Cooldowns

    async def run(self, job: PromptJob, data: bytes, attempt: Attempt) -> Attempt:
        """Run attempts until the job has ended; returns the last one.

        Raises ``Fenced`` if another attempt has the job, ``CancelledError`` after a cancellation
        from outside.
        """
        policy = self.policy.with_fallbacks(len(job.fallbacks))
        order = candidates(job)
        while True:
            log_context.JOB.set((attempt.claim.job_id, attempt.claim.attempt))
            with self.leases.holding(attempt.claim.job_id, attempt):
                try:
                    reason = await self._run_one(order, data, attempt, policy)
                except asyncio.CancelledError:
                    await self.stopper.stop(attempt)
                    return attempt
            if reason is None:
                return attempt
            # Not held here: a renewal under way would report the next attempt as lost.
            attempt = await self._next(job, attempt, reason)

    async def _run_one(
        self, order: Sequence[PromptJob], data: bytes, attempt: Attempt, policy: RetryPolicy
    ) -> ErrorCode | None:
        """Run one attempt by one of the candidates in ``order``.

        If another attempt is to follow, wait for its time and return the reason.
        """
        claim = attempt.claim
        if claim.failed_attempts >= policy.max_attempts:
            await self._give_up(attempt, data)
            return None
        try:
            place = await self._free_candidate(order, attempt)
        except JobError as error:
            await attempt.end_failed(error)
            return None
        job = order[place]
        _log_as(job)
        if not await attempt.open(job):
            return None
        try:
            await attempt.stream(job, self.provider(job.provider))
        except JobError as error:
            if wait_s := cooldown_s(error):
                await self.cooldowns.begin(job.provider, job.model, wait_s)
            match decide_retry(
                error,
                tries=claim.failed_attempts + 1,
                streaming=attempt.streaming,
                on_interrupt=job.on_interrupt,
                remaining_s=attempt.remaining_s(job),
                policy=policy,
                has_fallback=place + 1 < len(order),
                jitter=_jitter(),
            ):
                case Fail(final):
                    await attempt.end_failed(final)
                case KeepPartial():
                    await attempt.end_kept()
                case Retry(delay_s):
                    await self._wait_for_retry(attempt, error.code, delay_s, place)
                    return error.code
                case FallBack():
                    await self._give_way(attempt, error.code, 0.0, place + 1)
                    return error.code
        return None

    async def _free_candidate(self, order: Sequence[PromptJob], attempt: Attempt) -> int:
        """Return the place of the candidate to try; if all of them cool down, wait for one.

        Raises ``JobError`` if none is free before the deadline.
        """
        claim, job = attempt.claim, order[0]
        place = min(claim.progress.fallback, len(order) - 1)
        ends_now = attempt.streaming and job.on_interrupt != "restart"
        while not (claim.cancel_reason or ends_now):
            waits_s: list[float] = []
            for candidate in order[place:]:
                wait_s = await self.cooldowns.remaining_s(candidate.provider, candidate.model)
                if wait_s <= 0:
                    return place + len(waits_s)
                waits_s.append(wait_s)
            chosen = choose(waits_s)
            remaining_s = attempt.remaining_s(job)
            if waits_s[chosen] >= remaining_s:
                raise still_cooling(waits_s[chosen])
            wait_s = spread_s(waits_s[chosen], remaining_s=remaining_s, jitter=_jitter())
            logger.info(
                "job %s: %s has refused its model with 429, the call follows in %.2f s",
                *(claim.job_id, order[place + chosen].provider, wait_s),
            )
            await asyncio.sleep(wait_s)
        return place

    async def _wait_for_retry(
        self, attempt: Attempt, code: ErrorCode, delay_s: float, place: int
    ) -> None:
        await self._give_way(attempt, code, delay_s, place)
        await asyncio.sleep(delay_s)

    async def _give_way(
        self, attempt: Attempt, code: ErrorCode, delay_s: float, fallback: int
    ) -> None:
        """Record the end of an attempt that another one follows, by the candidate ``fallback``."""
        claim = attempt.claim
        logger.info(
            "job %s: attempt %d ended with %s, the next follows in %.2f s",
            *(claim.job_id, claim.attempt, code, delay_s),
        )
        self.stats.retries.add(code.value)
        tracing.current().retried(claim.attempt, code.value, delay_s)
        # The store takes no event of an attempt once the next one has begun.
        await attempt.flush()
        progress = claim.progress.after(attempt.usage, fallback=fallback)
        if progress != claim.progress:
            await retry_until_available(
                lambda: self.store.save_progress(claim.job_id, claim.owner, progress)
            )

    async def _next(self, job: PromptJob, attempt: Attempt, reason: ErrorCode) -> Attempt:
        held = attempt.claim
        claim = await self.claimer.claim(
            held.job_id, b"", deadline_s=job.deadline_s, held=held.owner
        )
        if claim.status != "claimed":
            raise Fenced(held.job_id)
        return attempt.next(claim, reason=reason)

    async def _give_up(self, attempt: Attempt, data: bytes) -> None:
        # One dead letter, even if this attempt is lost too before it ends the job.
        claim, reason = attempt.claim, ErrorCode.TOO_MANY_ATTEMPTS.value
        call = f"{claim.job_id}/{reason}/{claim.created_ms}"
        await retry_until_available(
            lambda: self.store.dead_letter(claim.job_id, reason, call=call, job=data)
        )
        message = f"{claim.failed_attempts} attempts ended with the loss of their worker"
        await attempt.end_failed(JobError(ErrorCode.TOO_MANY_ATTEMPTS, message))


def _jitter() -> float:
    return random.random()  # noqa: S311  # spreads calls, keeps no secret


def _log_as(job: PromptJob) -> None:
    """Let the lines of the log name the provider and model of this candidate."""
    about = log_context.ABOUT.get()
    if job.fallbacks and about is not None:
        log_context.ABOUT.set(about._replace(provider=job.provider, model=job.model))
