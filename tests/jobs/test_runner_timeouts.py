"""Timeouts of the stream, the deadline of the job and the soft time limit of its task."""

import asyncio
import types

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from berlin_schemas import ErrorCode, names
from berlin_worker.errors import JobError
from tests.support.harness import JOB_ID, says
from tests.support.store_helpers import JOB, text_of

pytestmark = pytest.mark.contract


@pytest.mark.parametrize(
    ("stream", "fields", "message"),
    [
        (says(hangs=True), {"first_chunk_timeout_s": 0.02}, "first_chunk_timeout_s"),
        (says("a", hangs=True), {"idle_timeout_s": 0.02}, "idle_timeout_s"),
    ],
)
async def test_silent_upstream_times_out_and_is_retried(worker, stream, fields, message):
    async with worker(stream, max_attempts=2) as here:
        await here.run(**fields)
        end = (await here.log())[-1]
        assert here.provider.calls == 2
    assert end.error.code is ErrorCode.UPSTREAM_TIMEOUT
    assert message in end.error.message


async def test_keep_alives_without_text_postpone_the_idle_timeout(worker):
    async def stream(job, report):
        yield ["a"]
        loop = asyncio.get_running_loop()
        until_time = loop.time() + 2 * job.idle_timeout_s
        while loop.time() < until_time:
            report.alive()
            await asyncio.sleep(0.01)
        yield ["b"]

    async with worker(stream, max_attempts=1) as here:
        await here.run(idle_timeout_s=0.3)
        assert text_of(await here.log()) == "ab"
        assert (await here.kinds())[-1] == "completed"


async def test_deadline_ends_the_job_without_a_retry(worker):
    async with worker(says("a", hangs=True)) as here:
        await here.run(deadline_s=2)
        events = await here.log()
        assert here.provider.calls == 1
    assert [each.type for each in events] == ["started", "chunk", "failed"]
    assert events[-1].error.code is ErrorCode.DEADLINE_EXCEEDED


async def test_deadline_counts_from_the_start_of_the_first_attempt(worker, redis_client):
    async with worker(says("never")) as here:
        claim = await here.store.claim(JOB_ID, JOB, call="first", deadline_s=50.0)
        await redis_client.hset(names.state_key(JOB_ID), "started_ms", claim.started_ms - 10_000)
        await here.store.release(JOB_ID, claim.owner)
        await here.run(deadline_s=9)
        [event] = await here.log()
        assert here.provider.calls == 0
    assert event.error.code is ErrorCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("answer", ["error", "end"])
async def test_provider_that_ends_differently_at_a_timeout_has_timed_out(worker, answer):
    async def stream(job, report):
        yield ["a"]
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if answer == "error":
                raise JobError(ErrorCode.AUTH_FAILED, "no") from None

    async with worker(stream, max_attempts=1) as here:
        await here.run(idle_timeout_s=0.02)
        end = (await here.log())[-1]
    assert end.error.code is ErrorCode.UPSTREAM_TIMEOUT


class SoftLimit(SoftTimeLimitExceeded, asyncio.CancelledError):
    """What the pool raises in the coroutine of a task."""


@types.coroutine
def limited(coro):
    """Run ``coro`` as the pool does: a cancellation raises SoftTimeLimitExceeded in it."""
    step, value = coro.send, None
    while True:
        try:
            awaited = step(value)
        except StopIteration as end:
            return end.value
        try:
            value, step = (yield awaited), coro.send
        except asyncio.CancelledError:
            value, step = SoftLimit(), coro.throw


async def test_soft_time_limit_ends_the_job_as_deadline_exceeded(worker):
    async with worker(says("a", hangs=True)) as here:
        here.cause = "time_limit"

        async def run():
            await limited(here.run())

        task = asyncio.create_task(run())
        await here.logged(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        events = await here.log()
    assert [each.type for each in events] == ["started", "chunk", "failed"]
    assert events[-1].error.code is ErrorCode.DEADLINE_EXCEEDED
