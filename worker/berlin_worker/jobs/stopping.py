"""Ends an attempt whose task was cancelled, by the attempt itself or from outside."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from berlin_worker.errors import Fenced
from berlin_worker.jobs.attempt import Attempt, Stopped
from berlin_worker.jobs.failures import time_limit_passed
from berlin_worker.jobs.store import JobStore

STOP_S: Final = 5.0
"""How long a job that is cancelled from outside waits for Redis."""


@dataclass(frozen=True, slots=True)
class Stopper:
    """Publishes the end of a cancelled attempt, or releases its job.

    ``cancel_cause`` returns why the current task is cancelled from outside: ``revoked``,
    ``time_limit``, or anything else (a shutdown, a lost broker), which releases the job.
    """

    store: JobStore
    cancel_cause: Callable[[], str | None]

    async def stop(self, attempt: Attempt) -> None:
        """End the attempt of the current task, which was cancelled.

        Raises ``CancelledError`` if the cancellation came from outside, ``Fenced`` if the attempt
        lost its job.
        """
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
        # From now on nothing else stops the attempt: its end is under way.
        attempt.stopped = Stopped(None)
        # If Redis is away too, the lease expires instead.
        with contextlib.suppress(TimeoutError, ConnectionError, Fenced):
            async with asyncio.timeout(STOP_S):
                await self._stop_from_outside(attempt)
        raise asyncio.CancelledError

    async def _stop_from_outside(self, attempt: Attempt) -> None:
        cause = self.cancel_cause()
        if attempt.over:
            await attempt.flush()
        elif cause == "revoked":
            await attempt.end_cancelled("revoked")
        elif cause == "time_limit":
            await attempt.end_failed(time_limit_passed())
        else:
            await attempt.flush()
            await self.store.release(attempt.claim.job_id, attempt.claim.owner)
