"""The last chance of a job that has lost its workers: it comes alone, or in a group that is spared.

Whose turn it is :mod:`berlin_worker.jobs.quarantine` says; here the job is handed back while it
waits, claimed again, and cleared in time.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Final

from berlin_worker.jobs.leases import Claim, Store
from berlin_worker.jobs.quarantine import Quarantine
from berlin_worker.jobs.retry import RetryPolicy
from berlin_worker.jobs.store_retry import answered

_PARDONS: Final = 3
"""As many times ``max_attempts`` may a job be struck that is cleared again and again."""


def is_suspect(claim: Claim, policy: RetryPolicy) -> bool:
    """Whether the job would be given up if this attempt were lost too."""
    return claim.verdict == "claimed" and 0 < claim.strikes == policy.max_attempts - 1


@contextlib.asynccontextmanager
async def on_probation(
    claim: Claim,
    again: Callable[[], Awaitable[Claim]],
    *,
    store: Store,
    suspects: Quarantine,
    policy: RetryPolicy,
) -> AsyncIterator[Claim]:
    """Wait for the turn of a suspect, then claim it ``again``; its strike is taken back in time.

    One that runs alone gets it back when it has survived; one of a group at once, since
    it might be another of them that kills the worker.
    """
    job_id = claim.job_id
    waits = suspects.busy
    if waits:
        # Not held while it waits: that would be the strike that ends it.
        await answered(lambda: store.release(job_id, claim.attempt))
        if suspects.waits(job_id):
            yield replace(claim, verdict="leased")
            return
    async with suspects.turn(job_id) as alone:
        if waits:
            claim = await again()
        if claim.verdict != "claimed":
            yield claim
        elif alone:
            survived = asyncio.create_task(_survived(claim, store, suspects, policy))
            try:
                yield claim
            finally:
                survived.cancel()
        else:
            await _clear_failure(claim, store, policy)
            yield claim


async def _survived(claim: Claim, store: Store, suspects: Quarantine, policy: RetryPolicy) -> None:
    await asyncio.sleep(suspects.probation_s)
    await _clear_failure(claim, store, policy)


async def _clear_failure(claim: Claim, store: Store, policy: RetryPolicy) -> None:
    """Take back the last strike: not for ever, a job that kills late would go on to kill."""
    if claim.attempt < _PARDONS * policy.max_attempts:
        strikes = claim.strikes - 1
        await answered(lambda: store.clear_failure(claim.job_id, claim.attempt, strikes=strikes))
