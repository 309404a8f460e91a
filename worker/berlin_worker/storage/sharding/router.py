"""Route each job to the part of the process that works with its event store.

Every shard has a store, a journal with a writer of its own, leases and a runner: a shard that
is slow or does not answer holds up its own jobs and no others. What is one for the process (the
provider, the queue, the quarantine) the runners share.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from berlin_schemas.names import is_job_id
from berlin_schemas.shards import shard_of
from berlin_worker.config.recovery_times import CUT_OFF_S
from berlin_worker.errors import JobError, StoreUnavailable
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import JobQueue, Leases
from berlin_worker.jobs.runner import DROPPED, Outcome, Runner

logger = logging.getLogger(__name__)

_RETRY_S: Final = 0.5
_REVOKED_AT_ONCE: Final = 100
_CANCELS: Final = 1000
"""Cancellations that may wait for shards; a job beyond finds the flag in its record later."""


@dataclass(frozen=True, slots=True)
class ShardRuntime:
    """What the jobs of one shard run on."""

    journal: Journal
    leases: Leases
    runner: Runner

    @property
    def away(self) -> bool:
        """Whether the shard has not answered for ``CUT_OFF_S``."""
        return self.leases.silent_s > CUT_OFF_S


class Park(Protocol):
    """Holds jobs whose shard does not answer."""

    async def park(self, shard: int, job_id: str, job: Any) -> bool:
        """Return whether the job is parked."""


class Router:
    """Passes each call to the shard of its job. Several shards require ``park``."""

    def __init__(self, runtimes: Sequence[ShardRuntime], park: Park | None = None) -> None:
        self.runtimes = runtimes
        self._park = park
        self._cancelling: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[Any]] = set()

    @property
    def silent_s(self) -> float:
        """For how long no shard has answered, s; one that answers is enough to work."""
        return min(runtime.leases.silent_s for runtime in self.runtimes)

    def is_away(self, shard: int) -> bool:
        """Return whether a shard has not answered for ``CUT_OFF_S``."""
        return self.runtimes[shard].away

    def run(
        self,
        job_id: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        *,
        redelivered: bool = False,
    ) -> Coroutine[Any, Any, Outcome]:
        """Run the job of one delivery; see :meth:`Runner.run`.

        A job whose shard does not answer is parked. If that fails, it waits here for the shard.
        """
        if len(self.runtimes) == 1:  # saves a frame for each stream
            return self.runtimes[0].runner.run(job_id, args, kwargs, redelivered=redelivered)
        return self._run(job_id, args, kwargs, redelivered=redelivered)

    async def _run(
        self,
        job_id: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        *,
        redelivered: bool,
    ) -> Outcome:
        shard = self._shard(job_id)
        runtime = self.runtimes[shard]
        while not (runtime.away and await self._parked(shard, job_id, args, kwargs)):
            try:
                return await runtime.runner.run(job_id, args, kwargs, redelivered=redelivered)
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_S)
        return DROPPED

    async def _parked(
        self, shard: int, job_id: str, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> bool:
        if self._park is None or not is_job_id(job_id) or len(args) != 1 or kwargs:
            return False
        if not await self._park.park(shard, job_id, args[0]):
            return False
        logger.warning("job %s is parked: event store %d is away", job_id, shard)
        return True

    async def cancel(self, job_id: str, reason: str, *, only_queued: bool = True) -> None:
        """End a job as ``cancelled``; see :meth:`Runner.cancel`.

        With several shards it returns at once: a shard that has just failed must not hold up
        the cancellations of all others. A shard that is away is skipped: the worker finds the
        flag in the record later.
        """
        runtime = self.runtimes[self._shard(job_id)]
        if len(self.runtimes) == 1:
            await runtime.runner.cancel(job_id, reason, only_queued=only_queued)
        elif not runtime.away and len(self._cancelling) < _CANCELS:
            task = asyncio.create_task(self._cancel(runtime, job_id, reason, only_queued))
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)

    async def _cancel(
        self, runtime: ShardRuntime, job_id: str, reason: str, only_queued: bool
    ) -> None:
        with contextlib.suppress(StoreUnavailable):
            await runtime.runner.cancel(job_id, reason, only_queued=only_queued)

    async def revoke(self, job_ids: Sequence[str], *, running: bool) -> None:
        """Record that Celery has revoked these jobs; see :meth:`Runner.revoke`.

        Jobs of a shard that is away are skipped: workers remember revoked IDs by themselves.
        """
        task = asyncio.create_task(self._revoke(job_ids, running=running))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _revoke(self, job_ids: Sequence[str], *, running: bool) -> None:
        for start in range(0, len(job_ids), _REVOKED_AT_ONCE):
            runtimes = [
                (job_id, self.runtimes[self._shard(job_id)])
                for job_id in job_ids[start : start + _REVOKED_AT_ONCE]
            ]
            asked = [
                runtime.runner.revoke(job_id, running=running)
                for job_id, runtime in runtimes
                if len(self.runtimes) == 1 or not runtime.away
            ]
            for outcome in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, StoreUnavailable):
                    logger.error("a revocation cannot be recorded", exc_info=outcome)

    async def discard(self, job_id: object, reason: str, detail: str, message: bytes) -> None:
        """Dead-letter a message that is no delivery of a job; see :meth:`Runner.discard`.

        Raises ``TimeoutError`` if the shard of the job is away.
        """
        try:
            await self.runtimes[self._shard(job_id)].runner.discard(job_id, reason, detail, message)
        except StoreUnavailable as error:
            raise TimeoutError from error

    async def refuse(self, job_id: str, refusal: JobError) -> None:
        """End a job as failed, with ``refusal``; see :meth:`Runner.refuse`."""
        runner = self.runtimes[self._shard(job_id)].runner
        task = asyncio.create_task(runner.refuse(job_id, refusal))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        with contextlib.suppress(StoreUnavailable):
            await task

    async def drained(self) -> None:
        """Return when no shard has anything left to write."""
        await asyncio.gather(*self._ending, return_exceptions=True)
        await asyncio.gather(*(runtime.journal.drained() for runtime in self.runtimes))

    def _shard(self, job_id: object) -> int:
        if isinstance(job_id, str) and is_job_id(job_id):
            return shard_of(job_id, len(self.runtimes))
        return 0  # only a dead letter is written for it


class Forgets(Protocol):
    """The store of a shard, as far as :class:`StrayQueue` needs it."""

    async def forget(self, job_id: str) -> None:
        """Remove the record of a job; raises ``ConnectionError``."""


class StrayQueue:
    """The job queue of one shard: a job of another is put back once, and has no record here.

    Such a job was submitted by somebody with another list of shards, or before the list was
    changed. On its own shard it begins anew; here it would be found overdue again and again.
    """

    def __init__(self, job_queue: JobQueue, store: Forgets, *, shard: int, count: int) -> None:
        self._job_queue = job_queue
        self._store = store
        self._shard = shard
        self._count = count

    async def requeue(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Put the message of a job on the queue again."""
        await self._job_queue.requeue(job_id, job, trace)
        belongs = shard_of(job_id, self._count)
        if belongs != self._shard:
            logger.error(
                "job %s had its record in event store %d and belongs to %d: its producer has "
                "another WORKER_EVENT_SHARDS, or the list was changed",
                *(job_id, self._shard, belongs),
            )
            await self._store.forget(job_id)

    async def depth(self) -> int:
        """How many messages wait on the queue."""
        return await self._job_queue.depth()
