"""Jobs whose lease expires: the old worker stops, and the next one continues as the job asks."""

import asyncio
import contextlib

import pytest

from berlin_schemas import ErrorCode, names
from berlin_worker.storage.job_store import RedisStore
from tests.support.harness import BUSY, JOB_ID, says
from tests.support.store_helpers import (
    JOB,
    expire_lease,
    make_store,
    open_log,
    record,
    text_of,
)

pytestmark = pytest.mark.contract


async def take_over(worker, redis_client, job_id=JOB_ID):
    """Let another worker claim the job, as if this one had been silent for too long."""
    other = make_store(redis_client, owner="other")
    while True:
        await expire_lease(redis_client, job_id)
        claim = await other.claim(job_id, JOB, call="take-over", deadline_s=50.0)
        if claim.status == "claimed":
            return
        assert claim.status == "leased"  # a renewal came between


@pytest.mark.parametrize("stalled", [True, False], ids=["stalled", "streaming"])
async def test_lease_loss_closes_the_stream_and_leaves_the_log_to_the_new_worker(
    worker, redis_client, stalled
):
    async def stream(job, report):
        yield ["a"]
        if stalled:
            await asyncio.Event().wait()
        while True:
            await asyncio.sleep(0.001)
            yield ["stale"]

    async with worker(stream) as here:
        task = here.start()
        await here.logged(2)
        if not stalled:
            await here.pause_renewals()
        await take_over(here, redis_client)
        await task
        assert here.provider.closed == 1
        assert {each.attempt for each in await here.log()} == {1}
        seq = int((await record(redis_client, JOB_ID))["seq"])
        assert len(await here.log()) == seq


async def test_attempt_that_a_failover_forgot_stops_and_leaves_the_log_to_the_next_of_its_number(
    worker, redis_client
):
    go_on = asyncio.Event()

    async def stream(job, report):
        yield ["a"]
        await go_on.wait()
        yield ["stale"]

    async with worker(stream) as here:
        task = here.start()
        await here.logged(2)
        await here.pause_renewals()
        await redis_client.delete(names.state_key(JOB_ID), names.log_key(JOB_ID))
        other = make_store(redis_client, owner="other")
        log = open_log(await other.claim(JOB_ID, JOB, call="next", deadline_s=50.0))
        log.chunk(["b"])
        assert await other.append([log.take()]) == [True]
        go_on.set()  # the log has seq 2: the next event of both is seq 3
        await task
        assert [each.seq for each in await here.log()] == [1, 2]


async def test_renewal_pending_at_the_start_of_an_attempt_is_no_lease_loss(worker, monkeypatch):
    renew, claim = RedisStore.renew, RedisStore.claim
    asked, answered = asyncio.Event(), asyncio.Event()

    async def late_renew(self, held, **how):
        if asked.is_set() or not held:
            return await renew(self, held, **how)
        asked.set()
        await answered.wait()
        replies = await renew(self, held, **how)
        assert replies == ["lost"]
        return replies

    async def watched_claim(self, job_id, job, **how):
        if how.get("held"):
            await asked.wait()
            got = await claim(self, job_id, job, **how)
            answered.set()
            await asyncio.sleep(0.02)
            return got
        return await claim(self, job_id, job, **how)

    monkeypatch.setattr(RedisStore, "renew", late_renew)
    monkeypatch.setattr(RedisStore, "claim", watched_claim)

    async def fails_once_asked(job, report):
        await asked.wait()
        raise BUSY
        yield []

    async with worker(fails_once_asked, says("ok")) as here:
        await here.run()
        assert await here.kinds() == ["started", "started", "chunk", "completed"]


@pytest.mark.parametrize(
    ("on_interrupt", "kinds", "text"),
    [
        ("restart", ["started", "chunk", "reset", "chunk", "completed"], "whole"),
        ("keep", ["started", "chunk", "completed"], "half"),
        ("fail", ["started", "chunk", "failed"], "half"),
    ],
)
async def test_job_taken_over_after_chunks_follows_its_on_interrupt(
    worker, redis_client, on_interrupt, kinds, text
):
    async with worker(says("half", hangs=True)) as dead:
        task = dead.start(on_interrupt=on_interrupt)
        await dead.logged(2)
        await dead.pause_renewals()
        await expire_lease(redis_client, JOB_ID)
        async with worker(says("whole"), owner="w2") as there:
            await there.run(on_interrupt=on_interrupt)
            events = await there.log()
            assert there.provider.calls == (on_interrupt == "restart")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await there.log() == events
    assert [each.type for each in events] == kinds
    assert {each.attempt for each in events[2:]} == {2}
    assert text_of(events) == text
    if on_interrupt == "keep":
        assert events[-1].finish_reason == "interrupted"
    if on_interrupt == "fail":
        assert events[-1].error.code is ErrorCode.INTERRUPTED
