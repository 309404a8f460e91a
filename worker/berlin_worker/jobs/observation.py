"""The final attempt of a job that has lost its workers: alone, or in a group that is spared.

:mod:`berlin_worker.jobs.quarantine` decides when it begins. This module releases the job while it
waits, claims it again, and clears its last failed attempt in time.

Most workers die of other causes than a job. A job that had run for long with a lost worker has
passed its observation already, and begins at once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Final

from berlin_worker.jobs.claiming import Claimer
from berlin_worker.jobs.quarantine import Quarantine
from berlin_worker.jobs.retry import RetryPolicy
from berlin_worker.jobs.store import Claim, JobStore
from berlin_worker.jobs.store_retry import retry_until_available

_CLEARED_UP_TO: Final = 3
"""A job is cleared at most this many times ``max_attempts``. The number of its attempts is no
limit: a job that is released while it waits for a slot begins two attempts in one worker."""


def is_final_attempt(claim: Claim, policy: RetryPolicy) -> bool:
    """Return whether the job would be given up if this attempt were lost too."""
    return claim.status == "claimed" and 0 < claim.failed_attempts == policy.max_attempts - 1


@contextlib.asynccontextmanager
async def under_observation(
    claim: Claim,
    claim_again: Callable[[], Awaitable[Claim]],
    *,
    claimer: Claimer,
    quarantine: Quarantine,
    policy: RetryPolicy,
) -> AsyncIterator[Claim]:
    """Wait for a slot, claim the job again, and clear its last failed attempt in time.

    - A job that runs alone is cleared when it has survived its observation.
    - A job of a group is cleared at once, since another job of the group may kill the worker.
    - A job whose lost attempt ran for longer than an observation is cleared at once, and waits for
      no slot. After ``max_attempts`` times it waits as others do: it may kill its workers late.
    """
    job_id, store = claim.job_id, claimer.store
    has_survived = claim.lost_after_ms > quarantine.observation_s * 1000
    if has_survived and await claimer.unless_cancelled(
        claim, _clear_failure(claim, store, policy, times=1)
    ):
        yield claim
        return
    waits = quarantine.busy
    if waits:
        # A lost worker must not count against a job that only waits.
        release = retry_until_available(lambda: store.release(job_id, claim.owner))
        await claimer.unless_cancelled(claim, release)
        if quarantine.waits(job_id):
            yield replace(claim, status="leased")
            return
    async with quarantine.slot(job_id) as alone:
        if waits:
            claim = await claim_again()
        if claim.status != "claimed":
            yield claim
        elif alone:
            survival = asyncio.create_task(_clear_after_survival(claim, store, quarantine, policy))
            try:
                yield claim
            finally:
                survival.cancel()
        else:
            await claimer.unless_cancelled(claim, _clear_failure(claim, store, policy))
            yield claim


async def _clear_after_survival(
    claim: Claim, store: JobStore, quarantine: Quarantine, policy: RetryPolicy
) -> None:
    await asyncio.sleep(quarantine.observation_s)
    await _clear_failure(claim, store, policy)


async def _clear_failure(
    claim: Claim, store: JobStore, policy: RetryPolicy, *, times: int = _CLEARED_UP_TO
) -> bool:
    """Clear the last failed attempt, up to ``times * max_attempts`` times.

    Returns whether it was cleared.
    """
    return await retry_until_available(
        lambda: store.clear_failure(
            claim.job_id,
            claim.owner,
            failed_attempts=claim.failed_attempts - 1,
            # Without a limit a job that kills its workers late would run again without end.
            at_most=times * policy.max_attempts,
        )
    )
