"""Cancellations that a caller requests, at each stage of a job."""

import asyncio

import pytest

from berlin_schemas import names
from berlin_worker.storage.job_store import RedisStore
from tests.support.harness import BUSY, JOB_ID, says
from tests.support.store_helpers import JOB, check_keys
from tests.support.waiting import until

pytestmark = pytest.mark.contract


async def test_cancelled_running_job_closes_its_stream(worker):
    async with worker(says("a", hangs=True)) as here:
        task = here.start()
        await here.logged(2)
        await here.runner.cancel(JOB_ID, "enough")
        await here.runner.cancel(JOB_ID, "again")
        await task
        events = await here.log()
        assert here.provider.closed == 1
    assert [each.type for each in events] == ["started", "chunk", "cancelled"]
    assert events[-1].reason == "enough"


async def test_running_job_reads_the_cancel_flag_of_its_record_after_a_missed_message(
    worker, redis_client
):
    async with worker(says("a", hangs=True)) as here:
        task = here.start()
        await here.logged(2)
        await redis_client.hset(names.state_key(JOB_ID), "cancel", 1)
        await task
        assert await here.kinds() == ["started", "chunk", "cancelled"]


@pytest.mark.parametrize("answer", ["error", "end"])
async def test_provider_that_swallows_a_cancellation_does_not_keep_the_job(worker, answer):
    async def stream(job, report):
        yield ["a"]
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if answer == "error":
                raise BUSY from None

    async with worker(stream) as here:
        task = here.start()
        await here.logged(2)
        await here.runner.cancel(JOB_ID, "requested")
        await task
        assert await here.kinds() == ["started", "chunk", "cancelled"]


async def test_cancellation_during_the_append_of_the_last_event_changes_nothing(
    worker, monkeypatch
):
    held, go = asyncio.Event(), asyncio.Event()
    append = RedisStore.append

    async def held_up(self, batch):
        if any(each.ending for each in batch):
            held.set()
            await go.wait()
        return await append(self, batch)

    monkeypatch.setattr(RedisStore, "append", held_up)
    for job_id, outside in (("ours", False), ("theirs", True)):
        held.clear(), go.clear()
        async with worker(says("a")) as here:
            task = here.start(job_id)
            await held.wait()
            if outside:
                here.cause = "revoked"
                task.cancel()
            else:
                await here.runner.cancel(job_id, "too late")
            await asyncio.sleep(0)
            go.set()
            await asyncio.wait({task})
            assert task.cancelled() == outside
            if not outside:
                await task
            assert await here.kinds(job_id) == ["started", "chunk", "completed"]


async def test_job_in_back_off_is_cancelled_at_once(worker):
    async with worker(says("half", then=BUSY), retry_base_s=100.0) as here:
        task = here.start()
        await here.logged(2)
        await until(lambda: here.provider.closed)
        await here.runner.cancel(JOB_ID, "requested")
        await task
        assert await here.kinds() == ["started", "chunk", "cancelled"]


async def test_queued_job_with_a_record_is_cancelled_by_one_worker_alone(worker, redis_client):
    state = names.state_key(JOB_ID)
    await redis_client.hset(state, mapping={"status": "queued", "job": JOB, "created_ms": 1})
    await redis_client.expire(state, 100)
    async with worker(says("never")) as here, worker(says("never"), owner="w2") as there:
        await asyncio.gather(
            here.runner.cancel(JOB_ID, "requested"), there.runner.cancel(JOB_ID, "requested")
        )
        assert await here.kinds() == ["cancelled"]
        await here.run()
        assert await here.kinds() == ["cancelled"]
        assert here.provider.calls == 0


async def test_bare_job_with_an_earlier_cancel_flag_is_cancelled_on_arrival(worker, redis_client):
    async with worker(says("never")) as here:
        await redis_client.hset(names.state_key(JOB_ID), "cancel", 1)
        await here.runner.cancel(JOB_ID, "requested")
        assert await here.log() == []
        await check_keys(redis_client)
        await here.run()
        assert await here.kinds() == ["cancelled"]
        assert here.provider.calls == 0


async def test_revoked_job_without_a_record_ends_as_cancelled(worker):
    async with worker(says("never")) as here:
        await here.runner.cancel(JOB_ID, "revoked", only_queued=False)
        [event] = await here.log()
        assert (event.type, event.reason) == ("cancelled", "revoked")


async def test_reason_with_invalid_characters_cancels_the_job(worker):
    async with worker(says("a", hangs=True)) as here:
        task = here.start()
        await here.logged(2)
        await here.runner.cancel(JOB_ID, "half \ud800")
        await task
        assert (await here.log())[-1].reason == "half ?"


async def test_loss_of_a_queued_job_during_its_cancellation_does_not_stop_the_canceller(
    worker, redis_client, monkeypatch
):
    append = RedisStore.append

    async def too_late(self, batch):
        await redis_client.hset(names.state_key(JOB_ID), "owner", "another")
        return await append(self, batch)

    monkeypatch.setattr(RedisStore, "append", too_late)
    async with worker(says("never")) as here:
        await here.runner.cancel(JOB_ID, "requested", only_queued=False)
        assert asyncio.current_task().cancelling() == 0
        assert await here.log() == []
