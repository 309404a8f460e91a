"""Calls from other threads and channels for the jobs of this process."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from berlin_worker.errors import JobError
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import Leases
from berlin_worker.jobs.runner import Runner

logger = logging.getLogger(__name__)

_REVOKED_AT_ONCE: Final = 100


class Dispatcher:
    """Passes calls to the runner, and waits at shutdown for those that have not returned."""

    def __init__(self, runner: Runner, leases: Leases, journal: Journal) -> None:
        self.run = runner.run  # the method itself: saves a frame for each stream
        self.cancel = runner.cancel
        self.discard = runner.discard
        self._runner = runner
        self._leases = leases
        self._journal = journal
        self._ending: set[asyncio.Task[Any]] = set()

    @property
    def silent_s(self) -> float:
        """Seconds since the last answer of the event store."""
        return self._leases.silent_s

    async def revoke(self, job_ids: Sequence[str], *, running: bool) -> None:
        """Begin to record that Celery has revoked these jobs; see :meth:`Runner.revoke`."""
        self._track(asyncio.create_task(self._revoke(job_ids, running=running)))

    async def refuse(self, job_id: str, refusal: JobError) -> None:
        """End a job as failed, with ``refusal``; see :meth:`Runner.refuse`."""
        await self._track(asyncio.create_task(self._runner.refuse(job_id, refusal)))

    async def drained(self) -> None:
        """Return when nothing is left to write."""
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._journal.drained()

    async def _revoke(self, job_ids: Sequence[str], *, running: bool) -> None:
        for start in range(0, len(job_ids), _REVOKED_AT_ONCE):
            part = job_ids[start : start + _REVOKED_AT_ONCE]
            revoked = (self._runner.revoke(job_id, running=running) for job_id in part)
            for outcome in await asyncio.gather(*revoked, return_exceptions=True):
                if isinstance(outcome, Exception):
                    logger.error("a revocation cannot be recorded", exc_info=outcome)

    def _track(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task
