"""Fallbacks and usage: which candidates are tried, which one answers, the usage of all attempts."""

import asyncio

import pytest

from berlin_schemas import ErrorCode, names
from berlin_worker.errors import JobError
from tests.support.harness import BUSY, JOB_ID, ScriptedProvider, Worker, says
from tests.support.store_helpers import expire_lease, make_store

pytestmark = pytest.mark.contract

GONE = JobError(ErrorCode.UPSTREAM_ERROR, "no such model", upstream_status=404)
FALLBACKS = [
    {"provider": "second", "model": "m-2", "options": {"n": 2}},
    {"provider": "third", "model": "m-3"},
]


@pytest.fixture
def worker(checked_redis):
    """Make workers from a dictionary: the script of each provider, by its name in the job."""

    def make(scripts, **changes):
        seen = []

        async def stream(job, report):
            seen.append((job.provider, job.model, job.options))
            async for deltas in scripts[job.provider](job, report):
                yield deltas

        here = Worker(checked_redis, ScriptedProvider(stream), **changes)
        here.seen = seen
        return here

    return make


def spends(tokens, script):
    async def stream(job, report):
        report.usage = {"total_tokens": tokens, "details": {"cached": 1}}
        async for deltas in script(job, report):
            yield deltas

    return stream


async def run(here, **fields):
    await here.run(
        **{"provider": "first", "model": "m-1", "options": {"n": 1}, "fallbacks": FALLBACKS}
        | fields
    )
    return await here.log()


def who(events):
    return [(each.provider, each.model) for each in events if each.type in {"started", "completed"}]


@pytest.mark.parametrize(
    "error",
    [
        BUSY,
        GONE,
        JobError(ErrorCode.AUTH_FAILED, "no"),
        JobError(ErrorCode.RATE_LIMITED, "slow", retryable=True, retry_after_s=1000.0),
        JobError(ErrorCode.QUOTA_EXCEEDED, "used up"),
        JobError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, "too long"),
        RuntimeError("a fault of the provider"),
    ],
    ids=str,
)
async def test_next_candidate_answers_at_once(worker, error):
    async with worker({"first": says(then=error), "second": says("b")}, retry_base_s=1000) as here:
        events = await run(here)
    assert [each.type for each in events] == ["started", "started", "chunk", "completed"]
    assert who(events) == [("first", "m-1"), ("second", "m-2"), ("second", "m-2")]
    assert here.seen == [("first", "m-1", {"n": 1}), ("second", "m-2", {"n": 2})]


async def test_fallback_without_options_takes_those_of_the_job(worker):
    scripts = {"first": says(then=BUSY), "second": says(then=GONE), "third": says("c")}
    async with worker(scripts, max_attempts=1) as here:
        events = await run(here)
    assert who(events)[-1] == ("third", "m-3")
    assert here.seen[-1] == ("third", "m-3", {"n": 1})


async def test_last_candidate_is_retried_as_a_job_without_fallbacks(worker):
    scripts = {"first": says(then=BUSY), "second": says(then=BUSY), "third": says(then=BUSY)}
    async with worker(scripts, max_attempts=2) as here:
        events = await run(here)
    assert [name for name, *_ in here.seen] == ["first", "second", "third", "third"]
    assert events[-1].error.message == "busy"


@pytest.mark.parametrize(
    "error",
    [
        JobError(ErrorCode.INVALID_JOB, "it is the job"),
        JobError(ErrorCode.DEADLINE_EXCEEDED, "too late", retryable=True),
    ],
    ids=str,
)
async def test_error_of_the_job_itself_uses_no_fallback(worker, error):
    async with worker({"first": says(then=error)}) as here:
        events = await run(here)
    assert [each.type for each in events] == ["started", "failed"]


async def test_cancelled_job_uses_no_fallback(worker):
    async with worker({"first": says(hangs=True)}) as here:
        running = asyncio.create_task(run(here))
        await here.logged(1)
        await here.runner.cancel(JOB_ID, "requested")
        events = await running
    assert [each.type for each in events] == ["started", "cancelled"]


async def test_failure_after_a_chunk_restarts_with_the_same_candidate(worker):
    tries = iter([says("a", then=BUSY), says(then=BUSY)])

    async def first(job, report):
        async for deltas in next(tries)(job, report):
            yield deltas

    async with worker({"first": first, "second": says("b")}) as here:
        events = await run(here)
    kinds = ["started", "chunk", "reset", "started", "chunk", "completed"]
    assert [each.type for each in events] == kinds
    assert who(events)[-1] == ("second", "m-2")


@pytest.mark.parametrize("on_interrupt", ["restart", "keep"])
async def test_next_worker_continues_with_the_fallback_of_a_lost_worker(
    worker, redis_client, on_interrupt
):
    scripts = {"first": spends(3, says(then=BUSY)), "second": says("b", hangs=True)}
    async with worker(scripts) as lost:
        running = lost.start(
            provider="first",
            model="m-1",
            fallbacks=FALLBACKS,
            on_interrupt=on_interrupt,
        )
        await lost.logged(3)
        await lost.pause_renewals()
        await expire_lease(redis_client, JOB_ID)
        async with worker({"second": spends(4, says("c"))}, owner="other") as here:
            events = await run(here, options={}, on_interrupt=on_interrupt)
        running.cancel()
        await asyncio.wait({running})
    assert who(events)[-1] == ("second", "m-2")
    cost = 7 if on_interrupt == "restart" else 3
    attempts = 2 if on_interrupt == "restart" else 1
    assert events[-1].usage_total == {"total_tokens": cost, "details": {"cached": attempts}}


async def test_refusal_of_a_fallback_names_it_before_the_claim(worker):
    async with worker({"first": says("never")}) as here:
        check = here.provider.check

        def refuse(job):
            check(job)
            if job.provider == "third":
                raise JobError(ErrorCode.INVALID_JOB, "unknown option 'n'")

        here.provider.check = refuse
        [event] = await run(here)
    assert event.error.code is ErrorCode.INVALID_JOB
    assert event.error.message == "fallbacks.1: unknown option 'n'"
    assert here.provider.calls == 0


# Usage


@pytest.mark.parametrize("max_attempts", [1, 2])
async def test_failed_job_has_its_last_usage_and_the_sum(worker, max_attempts):
    async with worker({"first": spends(5, says(then=BUSY))}, max_attempts=max_attempts) as here:
        end = (await run(here, fallbacks=[]))[-1]
    assert end.usage == {"total_tokens": 5, "details": {"cached": 1}}
    total = {"total_tokens": 10, "details": {"cached": 2}}
    assert end.usage_total == (total if max_attempts > 1 else None)


async def test_cancelled_job_has_its_usage(worker):
    async with worker({"first": spends(5, says("a", hangs=True))}) as here:
        running = asyncio.create_task(run(here, fallbacks=[]))
        await here.logged(2)
        await here.runner.cancel(JOB_ID, "requested")
        end = (await running)[-1]
    assert (end.type, end.usage["total_tokens"], end.usage_total) == ("cancelled", 5, None)


async def test_job_that_is_cancelled_in_the_queue_has_the_sum_of_its_attempts(worker, redis_client):
    scripts = {"first": spends(3, says(then=BUSY)), "second": says("b", hangs=True)}
    async with worker(scripts) as here:
        running = asyncio.create_task(run(here))
        await here.logged(3)
        await here.pause_renewals()
        await expire_lease(redis_client, JOB_ID)
        async with worker({}, owner="other") as other:
            await other.runner.cancel(JOB_ID, "requested", only_queued=False)
        running.cancel()
        await asyncio.wait({running})
        end = (await here.log())[-1]
    assert (end.type, end.usage) == ("cancelled", None)
    assert end.usage_total == {"total_tokens": 3, "details": {"cached": 1}}


@pytest.mark.parametrize("garbage", ["", "{", "[]", '{"usage": 1, "fallback": -1}', "\udcff"])
async def test_garbage_in_the_record_counts_as_no_progress(worker, redis_client, garbage):
    async with worker({"first": says("a")}) as here:
        store = make_store(redis_client)
        await store.claim(JOB_ID, b"", call="1", deadline_s=50.0)
        value = garbage.encode("utf-8", "surrogateescape")
        await redis_client.hset(names.state_key(JOB_ID), "progress", value)
        await expire_lease(redis_client, JOB_ID)
        events = await run(here)
    assert who(events) == [("first", "m-1"), ("first", "m-1")]
    assert events[-1].usage_total is None


# After a cancellation


def reports_late(cancelled, *, then=None, hangs=False):
    async def stream(job, report):
        yield ["a"]
        await cancelled.wait()
        yield ["unpublished"]
        if hangs:
            await asyncio.Event().wait()
        report.usage = {"total_tokens": 5}
        if then is not None:
            raise then

    return stream


@pytest.mark.parametrize("then", [None, BUSY])
async def test_cancelled_attempt_reads_on_for_its_usage_and_publishes_nothing(worker, then):
    cancelled = asyncio.Event()
    script = reports_late(cancelled, then=then)
    async with worker({"first": script}, read_on_s=60.0) as here:
        running = asyncio.create_task(run(here))
        await here.logged(2)
        for _ in range(2):
            await here.runner.cancel(JOB_ID, "requested")
        cancelled.set()
        events = await running
    assert [each.type for each in events] == ["started", "chunk", "cancelled"]
    assert events[-1].usage == {"total_tokens": 5}


async def test_cancelled_attempt_reads_on_for_a_limited_time(worker):
    cancelled = asyncio.Event()
    async with worker({"first": reports_late(cancelled, hangs=True)}, read_on_s=0.1) as here:
        running = asyncio.create_task(run(here))
        await here.logged(2)
        await here.runner.cancel(JOB_ID, "requested")
        cancelled.set()
        events = await running
    assert [each.type for each in events] == ["started", "chunk", "cancelled"]
    assert events[-1].usage is None


async def test_fenced_attempt_does_not_read_on(worker, redis_client):
    async with worker({"first": says("a", hangs=True)}, read_on_s=60.0) as here:
        running = here.start(provider="first", model="m-1")
        await here.logged(2)
        here.leases.holder(JOB_ID).lost()
        await running
        await redis_client.delete(names.state_key(JOB_ID), names.log_key(JOB_ID))
