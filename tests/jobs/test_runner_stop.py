"""Cancellations of the task: shutdown, revoke and time limit."""

import asyncio

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.storage.job_store import RedisStore
from tests.support.harness import BUSY, JOB_ID, cancelled, says
from tests.support.store_helpers import record, text_of
from tests.support.waiting import until

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("deltas", [(), ("half",)])
async def test_shutdown_requeues_the_job_without_a_failed_attempt(worker, redis_client, deltas):
    async with worker(says(*deltas, hangs=True)) as here:
        task = here.start()
        await here.logged(1 + len(deltas))
        await until(lambda: here.provider.calls)
        here.cause = "shutdown"
        async with cancelled(task):
            pass
        kept = await record(redis_client, JOB_ID)
        assert (kept["status"], kept["failed_attempts"]) == ("queued", "0")
    async with worker(says("whole"), owner="w2", max_attempts=1) as there:
        await there.run()
        events = await there.log()
    opening = "reset" if deltas else "started"
    assert [(each.type, each.attempt) for each in events[1 + len(deltas) :]] == [
        (opening, 2),
        ("chunk", 2),
        ("completed", 2),
    ]
    assert text_of(events) == "whole"


@pytest.mark.parametrize(("cause", "kind"), [("revoked", "cancelled"), ("time_limit", "failed")])
async def test_revoke_and_time_limit_end_the_job(worker, cause, kind):
    async with worker(says("a", hangs=True)) as here:
        task = here.start()
        await here.logged(2)
        here.cause = cause
        async with cancelled(task):
            pass
        end = (await here.log())[-1]
    assert end.type == kind
    if kind == "failed":
        assert end.error.code is ErrorCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("cause", ["revoked", "shutdown"])
@pytest.mark.parametrize("attempt", [1, 2])
async def test_cancellation_during_the_claim_is_not_lost(
    worker, redis_client, monkeypatch, cause, attempt
):
    claim = RedisStore.claim
    claimed, go = asyncio.Event(), asyncio.Event()

    async def slow_reply(self, job_id, job, **how):
        got = await claim(self, job_id, job, **how)
        if got.attempt == attempt:
            claimed.set()
            await go.wait()
        return got

    monkeypatch.setattr(RedisStore, "claim", slow_reply)
    async with worker(says(then=BUSY)) as here:
        task = here.start()
        await claimed.wait()
        here.cause = cause
        task.cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.wait({task})
        assert task.cancelled()
        if cause == "revoked":
            assert (await here.kinds())[-1] == "cancelled"
        else:
            assert (await record(redis_client, JOB_ID))["status"] == "queued"
        assert here.provider.calls == attempt - 1
