"""The parts of a worker that run jobs, with a scripted provider, over a real store."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, Self

import redis.asyncio

from berlin_schemas import ErrorCode, Event, PromptJob
from berlin_worker.errors import JobError
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import Leases
from berlin_worker.jobs.retry import RetryPolicy
from berlin_worker.jobs.runner import Runner
from berlin_worker.jobs.store import Renewal
from berlin_worker.providers.base import Report
from berlin_worker.providers.defaults import JobDefaults
from berlin_worker.storage.cooldowns import RedisCooldowns
from berlin_worker.storage.databases import database_of
from tests.support.store_helpers import job_object, load_scripts, make_store, read_log
from tests.support.waiting import stopped

JOB_ID = "job-1"
BUSY = JobError(ErrorCode.UPSTREAM_ERROR, "busy", retryable=True, upstream_status=503)
"""A failure of the upstream that a worker retries."""
Stream = Callable[[PromptJob, Report], AsyncGenerator[list[str], None]]


class ScriptedProvider:
    """Plays the next of ``scripts`` in each attempt (the last one again and again)."""

    def __init__(self, *scripts: Stream) -> None:
        self.scripts = list(scripts)
        self.calls = 0
        self.closed = 0
        self.refuses: BaseException | None = None

    def check(self, job: PromptJob) -> None:
        """Raise ``refuses``, if a test has set it."""
        if self.refuses is not None:
            raise self.refuses

    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        """Play a script; count how often a stream was opened and closed."""
        script = self.scripts[min(self.calls, len(self.scripts) - 1)]
        self.calls += 1
        try:
            async with contextlib.aclosing(script(job, report)) as stream:
                async for deltas in stream:
                    yield deltas
        finally:
            self.closed += 1


def says(*deltas: str, then: BaseException | None = None, hangs: bool = False) -> Stream:
    """Return a stream with one read for each delta; then it hangs, raises ``then``, or ends."""

    async def stream(job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        for delta in deltas:
            yield [delta]
        if hangs:
            await asyncio.Event().wait()
        if then is not None:
            raise then

    return stream


class FakeJobQueue:
    """A job queue that notes requeued jobs; ``broken`` as if the broker were away."""

    def __init__(self) -> None:
        self.requeued: list[str] = []
        self.queue_length = 0
        self.broken = False

    async def requeue(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Note the job; raise an error while ``broken``."""
        if self.broken:
            raise ConnectionError("broker: away")
        self.requeued.append(job_id)

    async def depth(self) -> int:
        """Return ``queue_length``."""
        return self.queue_length


class Worker:
    """One worker process as far as a job sees it. ``cause`` is what cancels it from outside."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        provider: ScriptedProvider,
        *,
        owner: str = "worker-1",
        **changes: Any,
    ) -> None:
        self.client = client
        self.provider = provider
        self.job_queue = FakeJobQueue()
        self.cause: Any = None
        self.store = make_store(client, owner=owner, lease_s=changes.pop("lease_s", 60.0))
        self.journal = Journal(
            self.store,
            buffer_bytes=changes.pop("buffer_bytes", 1 << 20),
            database=database_of(client),
        )
        self.leases = Leases(
            self.store,
            lease_s=60.0,
            renew_interval_s=changes.pop("renew_interval_s", 0.01),
            reap_interval_s=0.01,
            job_queue=self.job_queue,
            discard=self._discard,
            stats=self.journal.stats,
        )
        max_attempts = changes.pop("max_attempts", 3)
        self.runner = Runner(
            store=self.store,
            journal=self.journal,
            leases=self.leases,
            provider=changes.pop("provider_of", lambda name: provider),
            policy=RetryPolicy(max_attempts, changes.pop("retry_base_s", 0.001), 30.0),
            proxies=frozenset({"http://proxy.test:1"}),
            cancel_cause=lambda: self.cause,
            read_on_s=changes.pop("read_on_s", 0.0),
            cooldowns=RedisCooldowns(client),
            defaults=changes.pop("defaults", JobDefaults()),
        )
        assert not changes
        self._tasks: list[asyncio.Task[None]] = []
        self._renewing = asyncio.Lock()
        self._renew = self.store.renew
        self.store.renew = self._renew_one_by_one  # type: ignore[method-assign]  # see pause_renewals

    async def __aenter__(self) -> Self:
        await load_scripts(self.client)
        self._tasks = [
            asyncio.create_task(self.journal.run()),
            asyncio.create_task(self.leases.renew_forever()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            assert not task.done(), "a task of the worker has ended by itself"
            await stopped(task)
        assert self.journal.buffered_bytes == 0
        assert len(self.leases) == 0
        assert self.provider.calls == self.provider.closed, "a stream was not closed"

    async def _discard(self, *message: Any) -> None:
        await self.runner.discard(*message, is_record=True)

    async def pause_renewals(self) -> None:
        """Stop renewing, as a process that hangs does: calls under way end first."""
        await self._renewing.acquire()

    async def _renew_one_by_one(
        self, held: Sequence[tuple[str, str]], *, index: bool = True
    ) -> list[Renewal]:
        async with self._renewing:
            return await self._renew(held, index=index)

    async def run(self, job_id: str = JOB_ID, *, redelivered: bool = False, **fields: Any) -> None:
        """Deliver a job and run it to its end."""
        await self.runner.run(job_id, [job_object(**fields)], {}, redelivered=redelivered)

    def start(self, job_id: str = JOB_ID, **fields: Any) -> asyncio.Task[None]:
        """Deliver a job and run it in a task of its own."""
        return asyncio.create_task(self.run(job_id, **fields))

    async def log(self, job_id: str = JOB_ID) -> list[Event]:
        """Return the log of a job so far."""
        return await read_log(self.client, job_id)

    async def kinds(self, job_id: str = JOB_ID) -> list[str]:
        """Return the types of the events in the log of a job."""
        return [event.type for event in await self.log(job_id)]

    async def logged(self, count: int, job_id: str = JOB_ID) -> list[Event]:
        """Return the log, once it has ``count`` events."""
        async with asyncio.timeout(30):
            while len(events := await self.log(job_id)) < count:  # noqa: ASYNC110  # it is in Redis
                await asyncio.sleep(0.001)
        return events


@contextlib.asynccontextmanager
async def cancelled(task: asyncio.Task[None]) -> AsyncIterator[None]:
    """Cancel ``task`` after the block, and see that it ends as cancelled."""
    yield
    task.cancel()  # once: a second cancellation would cut its clean-up short
    await asyncio.wait({task}, timeout=30)
    assert task.cancelled()
