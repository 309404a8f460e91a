"""Each job to the part of the process that works with its event store.

Every shard has a store, a journal with a writer of its own, leases and a runner: a shard that
is slow or away holds up the jobs that it holds and no others. What is one for the process (the
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
from berlin_worker.errors import JobError, StoreUnavailable
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import JobQueue, Leases
from berlin_worker.jobs.runner import DROPPED, Outcome, Runner

logger = logging.getLogger(__name__)

AWAY_S: Final = 4.0
"""A shard that has not answered for longer gets no more jobs."""
_RETRY_S: Final = 0.5
_REVOKED_AT_ONCE: Final = 100
_CANCELS: Final = 1000
"""Cancellations under way for a shard that has just gone; those beyond find their flag later."""


@dataclass(frozen=True, slots=True)
class Core:
    """All that the jobs of one shard run on."""

    journal: Journal
    leases: Leases
    runner: Runner

    @property
    def away(self) -> bool:
        """Whether the shard cannot be worked with at present."""
        return self.leases.silent_s > AWAY_S


class Park(Protocol):
    """Where jobs wait whose shard is away."""

    async def park(self, shard: int, job_id: str, job: Any) -> bool:
        """Whether the job is written down."""


class Router:
    """What the process does with a job, by its shard. ``park`` is needed for several."""

    def __init__(self, cores: Sequence[Core], park: Park | None = None) -> None:
        self.cores = cores
        self._park = park
        self._cancelling: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[Any]] = set()

    @property
    def silent_s(self) -> float:
        """How long no shard has answered: with one that does there is work to do."""
        return min(core.leases.silent_s for core in self.cores)

    def is_away(self, shard: int) -> bool:
        """Whether a shard cannot be worked with at present."""
        return self.cores[shard].away

    def run(
        self,
        job_id: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        *,
        redelivered: bool = False,
    ) -> Coroutine[Any, Any, Outcome]:
        """Run the job of one delivery; see :meth:`Runner.run`.

        A job whose shard is away is parked. What cannot be parked waits here for its shard.
        """
        if len(self.cores) == 1:  # not so much as a frame more for each stream
            return self.cores[0].runner.run(job_id, args, kwargs, redelivered=redelivered)
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
        core = self.cores[shard]
        while not (core.away and await self._parked(shard, job_id, args, kwargs)):
            try:
                return await core.runner.run(job_id, args, kwargs, redelivered=redelivered)
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

        With several shards it returns at once: one that has just gone away must not hold up
        the cancellations of all others. One that is away is not asked: the flag in the record
        is found when it is back.
        """
        core = self.cores[self._shard(job_id)]
        if len(self.cores) == 1:
            await core.runner.cancel(job_id, reason, only_queued=only_queued)
        elif not core.away and len(self._cancelling) < _CANCELS:
            task = asyncio.create_task(self._cancel(core, job_id, reason, only_queued))
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, core: Core, job_id: str, reason: str, only_queued: bool) -> None:
        with contextlib.suppress(StoreUnavailable):
            await core.runner.cancel(job_id, reason, only_queued=only_queued)

    async def revoke(self, job_ids: Sequence[str], *, running: bool) -> None:
        """Note that Celery has revoked these jobs; see :meth:`Runner.revoke`.

        Those of a shard that is away are not asked for: the workers remember them by themselves.
        """
        task = asyncio.create_task(self._revoke(job_ids, running=running))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _revoke(self, job_ids: Sequence[str], *, running: bool) -> None:
        for start in range(0, len(job_ids), _REVOKED_AT_ONCE):
            cores = [
                (job_id, self.cores[self._shard(job_id)])
                for job_id in job_ids[start : start + _REVOKED_AT_ONCE]
            ]
            asked = [
                core.runner.revoke(job_id, running=running)
                for job_id, core in cores
                if len(self.cores) == 1 or not core.away
            ]
            for outcome in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, StoreUnavailable):
                    logger.error("a revoked job cannot be noted", exc_info=outcome)

    async def discard(self, job_id: object, reason: str, told: str, message: bytes) -> None:
        """Bury a message that is no delivery of a job; see :meth:`Runner.discard`.

        Raises ``TimeoutError`` where its shard is away.
        """
        try:
            await self.cores[self._shard(job_id)].runner.discard(job_id, reason, told, message)
        except StoreUnavailable as error:
            raise TimeoutError from error

    async def refuse(self, job_id: str, refusal: JobError) -> None:
        """End a job as failed; see :meth:`Runner.refuse`."""
        runner = self.cores[self._shard(job_id)].runner
        task = asyncio.create_task(runner.refuse(job_id, refusal))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        with contextlib.suppress(StoreUnavailable):
            await task

    async def drained(self) -> None:
        """Return when nothing waits for any shard any more."""
        await asyncio.gather(*self._ending, return_exceptions=True)
        await asyncio.gather(*(core.journal.drained() for core in self.cores))

    def _shard(self, job_id: object) -> int:
        if isinstance(job_id, str) and is_job_id(job_id):
            return shard_of(job_id, len(self.cores))
        return 0  # what is said of it goes to the dead letters alone


class Forgets(Protocol):
    """The records of a shard."""

    async def forget(self, job_id: str) -> None:
        """Remove the record of a job; raises ``ConnectionError``."""


class StrayQueue:
    """The doorbell of one shard: what belongs to another is rung once, and has no record here.

    Such a job was submitted by somebody with another list of shards, or before the list was
    changed. On its own shard it begins anew; here it would be found overdue again and again.
    """

    def __init__(self, doorbell: JobQueue, store: Forgets, *, shard: int, count: int) -> None:
        self._doorbell = doorbell
        self._store = store
        self._shard = shard
        self._count = count

    async def ring(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Put the message of a job on the queue again."""
        await self._doorbell.ring(job_id, job, trace)
        belongs = shard_of(job_id, self._count)
        if belongs != self._shard:
            logger.error(
                "job %s had its record in event store %d and belongs to %d: whoever submitted it "
                "has another WORKER_EVENT_SHARDS, or it has been changed",
                *(job_id, self._shard, belongs),
            )
            await self._store.forget(job_id)

    async def waiting(self) -> int:
        """How many messages wait on the queue."""
        return await self._doorbell.waiting()
