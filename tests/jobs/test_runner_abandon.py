"""A provider that ignores its cancellation: its job ends all the same, and its slot is free."""

import asyncio
import logging

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.jobs.abandon import abandoned_tasks
from tests.support.harness import JOB_ID, cancelled
from tests.support.store_helpers import make_store
from tests.support.waiting import until

pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr("berlin_worker.jobs.abandon.CANCEL_GRACE_S", 0.05)


class Clinging:
    """A stream that hangs after its first chunk, and again when it is cancelled.

    ``how``: it hangs while it cleans up (``finally``), or it swallows the cancellation and then
    goes on (``swallow``). It ends after :meth:`leaves`.
    """

    def __init__(self, how):
        self.how = how
        self.go = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, job, report):
        yield ["a"]
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            await self._hang()
            if self.how == "finally":
                raise
        yield ["too late"]
        yield ["much too late"]

    async def _hang(self):
        while not self.go.is_set():
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1

    async def leaves(self):
        """Release the coroutine and wait for its end: nothing that it yields may appear."""
        self.go.set()
        await until(lambda: not abandoned_tasks)


@pytest.fixture(params=["finally", "swallow"])
async def stubborn(request):
    return Clinging(request.param)


async def test_cancelled_job_ends_although_its_provider_ignores_the_cancellation(
    worker, stubborn, caplog
):
    async with worker(stubborn) as here:
        task = here.start()
        await here.logged(2)
        await here.runner.cancel(JOB_ID, "enough")
        await task
        assert await here.kinds() == ["started", "chunk", "cancelled"]
        assert here.leases.holder(JOB_ID) is None
        assert len(abandoned_tasks) == 1
        [line] = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert JOB_ID in line.getMessage()
        await stubborn.leaves()
        assert await here.kinds() == ["started", "chunk", "cancelled"]


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ({"idle_timeout_s": 0.1}, ErrorCode.UPSTREAM_TIMEOUT),
        ({"deadline_s": 2}, ErrorCode.DEADLINE_EXCEEDED),
    ],
)
async def test_timed_out_job_fails_although_its_provider_ignores_the_cancellation(
    worker, stubborn, limit, code
):
    async with worker(stubborn, max_attempts=1) as here:
        await here.run(**limit)
        end = (await here.log())[-1]
        assert end.error.code is code
        await stubborn.leaves()
        assert await here.kinds() == ["started", "chunk", "failed"]


async def test_late_chunks_of_an_abandoned_attempt_do_not_reach_the_next_one(worker, stubborn):
    go = asyncio.Event()

    async def second(job, report):
        yield ["b"]
        await go.wait()
        yield ["c"]

    async with worker(stubborn, second) as here:
        task = here.start(idle_timeout_s=1.0)
        await here.logged(4)
        await stubborn.leaves()
        go.set()
        await task
        assert await here.kinds() == ["started", "chunk", "reset", "chunk", "chunk", "completed"]


async def test_job_is_released_at_a_shutdown_although_its_provider_ignores_it(
    worker, redis_client, stubborn
):
    async with worker(stubborn) as here:
        task = here.start()
        await here.logged(2)
        async with cancelled(task):
            pass
        claim = await make_store(redis_client, owner="other").claim(
            JOB_ID, b"", call="x", deadline_s=50.0
        )
        assert (claim.status, claim.attempt, claim.failed_attempts) == ("claimed", 2, 0)
        await stubborn.leaves()
        assert await here.kinds() == ["started", "chunk"]


async def test_stream_that_swallows_the_cancellation_is_closed_at_its_next_chunk(
    worker,
):
    async def stream(job, report):
        n = 0
        while True:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                n += 100
            yield [str(n)]

    async with worker(stream) as here:
        task = here.start()
        await here.logged(2)
        await here.runner.cancel(JOB_ID, "enough")
        await task
        events = await here.log()
    assert events[-1].type == "cancelled"
    assert {event.content for event in events[1:-1]} == {"0"}
    assert not abandoned_tasks
