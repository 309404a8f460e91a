"""Second deliveries of one job: dropped, or delayed until the lease expires."""

import asyncio
from unittest.mock import AsyncMock

import pytest

from tests.support.harness import JOB_ID, says
from tests.support.store_helpers import expire_lease, text_of
from tests.support.waiting import until

pytestmark = pytest.mark.contract


async def test_second_delivery_of_a_running_job_is_dropped(worker):
    async with worker(says("a", hangs=True)) as here, worker(says("b"), owner="w2") as there:
        task = here.start()
        before = await here.logged(2)
        await here.run()
        await there.run()
        assert there.provider.calls == 0
        assert await here.log() == before
        await here.runner.cancel(JOB_ID, "requested")
        await task


async def test_redelivery_is_dropped_while_the_lease_is_renewed(worker):
    async with worker(says("a", hangs=True)) as here, worker(says("b"), owner="w2") as there:
        task = here.start()
        before = await here.logged(2)
        await here.run(redelivered=True)
        await there.run(redelivered=True)
        assert (here.provider.calls, there.provider.calls) == (1, 0)
        assert await here.log() == before
        await here.runner.cancel(JOB_ID, "requested")
        await task


async def test_redelivery_waits_until_the_lease_of_a_dead_worker_expires(
    worker, redis_client, monkeypatch
):
    monkeypatch.setattr("berlin_worker.jobs.claiming._CHECK_INTERVAL_S", 0.001)
    async with worker(says("a", hangs=True)) as dead, worker(says("b"), owner="w2") as there:
        lost = dead.start()
        await dead.logged(2)
        await dead.pause_renewals()
        claim = AsyncMock(wraps=there.store.claim)
        monkeypatch.setattr(there.store, "claim", claim)
        delivery = there.start(redelivered=True)
        await until(lambda: claim.await_count > 2)
        assert there.provider.calls == 0
        await expire_lease(redis_client, JOB_ID)
        await delivery
        events = await there.log()
        assert [each.type for each in events] == ["started", "chunk", "reset", "chunk", "completed"]
        assert text_of(events) == "b"
        lost.cancel()
        await asyncio.wait({lost})


async def test_delivery_of_a_finished_job_is_dropped(worker):
    async with worker(says("a")) as here:
        await here.run()
        before = await here.log()
        await here.run()
        assert await here.log() == before
        assert here.provider.calls == 1
