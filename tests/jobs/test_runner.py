"""One delivery from claim to end: scripted provider, real store, what the log says afterwards."""

import asyncio
import contextlib
import json
import logging
import types
from unittest.mock import AsyncMock

import pytest
import redis.asyncio
from celery.exceptions import SoftTimeLimitExceeded

from berlin_schemas import ErrorCode, names
from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.errors import JobError
from berlin_worker.providers.defaults import JobDefaults
from berlin_worker.storage.job_store import RedisStore
from berlin_worker.telemetry import job_end
from tests.support.harness import JOB_ID, ScriptedProvider, Worker, cancelled, says
from tests.support.store_helpers import (
    JOB,
    check_keys,
    expire_lease,
    job_object,
    load_scripts,
    loses_replies,
    make_store,
    raw_log,
    record,
    subscribed,
    text_of,
)
from tests.support.waiting import until

pytestmark = pytest.mark.contract

SECRET = "the prompt that nobody else may read"
BUSY = JobError(ErrorCode.UPSTREAM_ERROR, "busy", retryable=True, upstream_status=503)


@pytest.fixture(autouse=True)
async def keys(redis_client):
    yield
    await check_keys(redis_client)


@pytest.fixture
def worker(redis_client):
    """Makes workers over the one Redis."""
    return lambda *scripts, **changes: Worker(redis_client, ScriptedProvider(*scripts), **changes)


async def take_over(worker, redis_client, job_id=JOB_ID):
    """Let another worker claim the job, as if this one had been silent for too long."""
    other = make_store(redis_client, owner="other")
    while True:
        await expire_lease(redis_client, job_id)
        claim = await other.claim(job_id, JOB, call="take-over", deadline_s=50.0)
        if claim.status == "claimed":
            return
        assert claim.status == "leased"  # a renewal came between


# The plain story


async def test_a_job_starts_streams_and_completes(worker, redis_client):
    async def stream(job, report):
        assert job.messages[0].content == "Hello"
        report.login_s = 0.25
        report.finish_reason = "length"
        report.usage = {"total_tokens": 7}
        yield ["Hel", "lo"]
        await asyncio.sleep(0.02)
        yield [" world"]

    async with subscribed(redis_client, JOB_ID) as channel, worker(stream) as here:
        await here.run()
        events = await here.log()
        assert await channel.read(5) == await raw_log(redis_client, JOB_ID)
    assert [each.type for each in events] == ["started", *["chunk"] * 3, "completed"]
    assert {each.attempt for each in events} == {1}
    assert text_of(events) == "Hello world"
    end = events[-1]
    assert (end.finish_reason, end.usage) == ("length", {"total_tokens": 7})
    timings = end.timings
    assert timings.login_ms == 250
    assert timings.stream_ms >= 20
    assert timings.total_ms >= timings.queue_ms + timings.first_chunk_ms + timings.stream_ms - 1
    assert here.leases.holder(JOB_ID) is None


async def test_a_job_without_text_completes(worker):
    async with worker(says()) as here:
        await here.run()
        events = await here.log()
    assert [each.type for each in events] == ["started", "completed"]
    assert events[-1].timings.first_chunk_ms is None
    assert events[-1].usage is None


async def test_the_wait_in_the_queue_counts_from_the_submission(worker, redis_client):
    async with worker(says("a")) as here:
        ago = 5_000
        now_s, micros = await redis_client.time()
        created = now_s * 1000 + micros // 1000 - ago
        state = names.state_key(JOB_ID)
        fields = {"status": "queued", "job": JOB, "created_ms": created}
        await redis_client.hset(state, mapping=fields)
        await redis_client.expire(state, 100)
        await here.run()
        timings = (await here.log())[-1].timings
    assert ago <= timings.queue_ms < ago + 30_000
    assert timings.total_ms >= timings.queue_ms


async def test_many_jobs_at_once_do_not_mix(worker):
    async def stream(job, report):
        for n in range(20):
            yield [f"{job.metadata['name']}:{n} "]
            await asyncio.sleep(0)

    async with worker(stream) as here:
        ids = [f"job-{n}" for n in range(30)]
        await asyncio.gather(*(here.run(each, metadata={"name": each}) for each in ids))
        for each in ids:
            assert text_of(await here.log(each)) == "".join(f"{each}:{n} " for n in range(20))


async def test_a_full_buffer_stops_the_reading_and_not_the_clock_of_the_stream(worker):
    async with worker(says(*["x" * 500] * 40), buffer_bytes=600) as here:
        await here.run(idle_timeout_s=5.0)
        assert len(await here.log()) == 42


# Refusals


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {}),
        ([job_object(), job_object()], {}),
        ([job_object()], {"extra": 1}),
        ([], {"job": job_object()}),
        (["text"], {}),
        ([None], {}),
        ([[job_object()]], {}),
        ([{}], {}),
        ([job_object(unknown=1)], {}),
        ([job_object(messages=[])], {}),
        ([job_object(messages="Hello")], {}),
        ([{"messages": [{"role": "robot", "content": "Hello"}]}], {}),
        ([{"messages": [{"role": "user", "content": 1}]}], {}),
        ([job_object(deadline_s="600")], {}),
        ([job_object(deadline_s=-1)], {}),
        ([job_object(idle_timeout_s=float("nan"))], {}),
        ([job_object(on_interrupt="explode")], {}),
        ([job_object(proxy="http://elsewhere.test:1")], {}),
        ([job_object(job_id="another")], {}),
        ([job_object(metadata={"pad": "x" * (1 << 20)})], {}),
        ([job_object(metadata={"half": "\ud800"})], {}),
    ],
)
async def test_what_is_no_job_is_refused_once_and_reaches_no_provider(worker, caplog, args, kwargs):
    caplog.set_level(logging.DEBUG)
    async with worker(says("never")) as here:
        await here.runner.run(JOB_ID, args, kwargs)
        await here.runner.run(JOB_ID, args, kwargs)
        [event] = await here.log()
        assert here.provider.calls == 0
    assert event.type == "failed"
    assert event.error.code is ErrorCode.INVALID_JOB
    assert not event.error.retryable
    assert "Hello" not in event.error.message


async def test_a_job_that_the_provider_refuses_is_invalid(worker):
    async with worker(says("never")) as here:
        here.provider.refuses = JobError(ErrorCode.INVALID_JOB, "options: no such name")
        await here.run()
        [event] = await here.log()
        assert here.provider.calls == 0
    assert (event.error.code, event.error.message) == (
        ErrorCode.INVALID_JOB,
        "options: no such name",
    )


async def test_an_unknown_provider_is_invalid(worker):
    def provider_of(name):
        raise JobError(ErrorCode.INVALID_JOB, f"provider: no {name}")

    async with worker(says("never"), provider_of=provider_of) as here:
        await here.run(provider="nobody")
        [event] = await here.log()
    assert event.error.code is ErrorCode.INVALID_JOB


async def test_a_proxy_on_the_allow_list_is_taken(worker):
    async with worker(says("a")) as here:
        await here.run(proxy="http://proxy.test:1")
        assert (await here.kinds())[-1] == "completed"


@pytest.mark.parametrize("task_id", ["", "a b", "x" * 129, "job:{x}", "é", None, 7], ids=repr)
async def test_a_task_id_that_is_no_job_id_goes_to_the_dead_letters_and_into_no_key(
    worker, redis_client, task_id
):
    async with worker(says("never")) as here:
        await here.runner.run(task_id, [job_object()], {})
        others = [key async for key in redis_client.scan_iter() if b"worker:" not in key]
        assert others == []
        [(_, letter)] = await redis_client.xrange(names.DEAD_LETTERS)
        assert letter[b"reason"] == b"invalid_job_id"


@pytest.mark.parametrize("where", ["check", "stream"])
async def test_a_bug_of_the_provider_ends_as_internal_and_tells_the_prompt_to_nobody(
    worker, redis_client, caplog, where
):
    caplog.set_level(logging.DEBUG)
    bug = TypeError(f"cannot do anything with {SECRET}")
    async with worker(says("a", then=bug)) as here:
        if where == "check":
            here.provider.refuses = bug
        await here.run(messages=[{"role": "user", "content": SECRET}])
        end = (await here.log())[-1]
        assert SECRET.encode() not in b"".join(await raw_log(redis_client, JOB_ID))
        assert here.provider.calls == (where == "stream")
    assert end.error.code is ErrorCode.INTERNAL
    assert not end.error.retryable
    assert "TypeError" in end.error.message
    assert all(SECRET not in _written(each) for each in caplog.records)


def _written(log_record):
    return logging.Formatter().format(log_record)


@pytest.mark.parametrize(
    "report_of", [{"usage": {"n": object()}}, {"login_s": -1.0}, {"login_s": float("nan")}]
)
async def test_a_report_that_no_event_can_hold_ends_as_internal(worker, report_of):
    async def stream(job, report):
        yield ["a"]
        for name, value in report_of.items():
            setattr(report, name, value)

    async with worker(stream) as here:
        await here.run()
        events = await here.log()
    assert [each.type for each in events] == ["started", "chunk", "failed"]
    assert events[-1].error.code is ErrorCode.INTERNAL


@pytest.mark.parametrize("delta", [None, 1, b"bytes"])
async def test_deltas_that_are_no_text_end_as_internal(worker, delta):
    async def stream(job, report):
        yield ["fine"]
        yield ["half", delta]

    async with worker(stream) as here:
        await here.run()
        events = await here.log()
    assert [each.type for each in events] == ["started", "chunk", "failed"]


async def test_an_error_message_that_is_no_utf_8_is_told_as_far_as_it_goes(worker):
    error = JobError(ErrorCode.BAD_CHUNK, "line \ud800 is no JSON")
    async with worker(says(then=error)) as here:
        await here.run()
        assert (await here.log())[-1].error.message == "line ? is no JSON"


# Deliveries that are dropped


async def test_a_second_delivery_of_a_running_job_is_dropped(worker):
    async with worker(says("a", hangs=True)) as here, worker(says("b"), owner="w2") as there:
        task = here.start()
        before = await here.logged(2)
        await here.run()
        await there.run()
        assert there.provider.calls == 0
        assert await here.log() == before
        await here.runner.cancel(JOB_ID, "requested")
        await task


async def test_a_delivery_that_came_back_is_dropped_where_the_lease_is_renewed(worker):
    async with worker(says("a", hangs=True)) as here, worker(says("b"), owner="w2") as there:
        task = here.start()
        before = await here.logged(2)
        await here.run(redelivered=True)
        await there.run(redelivered=True)
        assert (here.provider.calls, there.provider.calls) == (1, 0)
        assert await here.log() == before
        await here.runner.cancel(JOB_ID, "requested")
        await task


async def test_a_delivery_that_came_back_outwaits_the_lease_of_a_dead_worker(
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


async def test_a_delivery_of_a_finished_job_is_dropped(worker):
    async with worker(says("a")) as here:
        await here.run()
        before = await here.log()
        await here.run()
        assert await here.log() == before
        assert here.provider.calls == 1


# Retries


async def test_before_the_first_chunk_a_retry_opens_with_started(worker):
    async with worker(says(then=BUSY), says("ok")) as here:
        await here.run(on_interrupt="fail")
        events = await here.log()
    assert [(each.type, each.attempt) for each in events] == [
        ("started", 1),
        ("started", 2),
        ("chunk", 2),
        ("completed", 2),
    ]


async def test_after_chunks_a_restart_discards_them(worker):
    async with worker(says("half", then=BUSY), says(then=BUSY), says("whole")) as here:
        await here.run()
        events = await here.log()
    assert [(each.type, each.attempt) for each in events] == [
        ("started", 1),
        ("chunk", 1),
        ("reset", 2),
        ("started", 3),
        ("chunk", 3),
        ("completed", 3),
    ]
    assert events[2].reason == "upstream_error"
    assert text_of(events) == "whole"


async def test_after_chunks_fail_fails_with_the_error_itself(worker):
    async with worker(says("half", then=BUSY)) as here:
        await here.run(on_interrupt="fail")
        events = await here.log()
    assert [each.type for each in events] == ["started", "chunk", "failed"]
    error = events[-1].error
    assert (error.code, error.retryable, error.upstream_status) == ("upstream_error", True, 503)


async def test_after_chunks_keep_completes_with_what_is_there(worker):
    async def stream(job, report):
        report.login_s = 0.25
        yield ["half"]
        await asyncio.sleep(0.02)
        raise BUSY

    async with worker(stream) as here:
        await here.run(on_interrupt="keep")
        events = await here.log()
    assert [each.type for each in events] == ["started", "chunk", "completed"]
    end = events[-1]
    assert end.finish_reason == "interrupted"
    assert text_of(events) == "half"
    timings = end.timings
    assert timings.login_ms == 250
    assert timings.stream_ms >= 20
    assert timings.total_ms >= timings.queue_ms + timings.first_chunk_ms + timings.stream_ms - 1


async def test_a_provider_that_cancels_itself_fails_and_is_not_restarted(worker):
    async def stream(job, report):
        yield ["half"]
        raise asyncio.CancelledError

    async with worker(stream) as here:
        await here.run()
        events = await here.log()
        assert here.provider.calls == 1
    assert [each.type for each in events] == ["started", "chunk", "failed"]
    assert (events[-1].error.code, events[-1].error.retryable) == ("internal", False)


async def test_the_last_attempt_ends_with_its_own_error(worker):
    limited = JobError(ErrorCode.RATE_LIMITED, "slow down", retryable=True)
    async with worker(says(then=BUSY), says(then=BUSY), says(then=limited)) as here:
        await here.run()
        events = await here.log()
        assert here.provider.calls == 3
    assert [each.type for each in events] == ["started"] * 3 + ["failed"]
    assert events[-1].error.code is ErrorCode.RATE_LIMITED


async def test_retry_after_beyond_the_deadline_fails_at_once(worker):
    later = JobError(ErrorCode.RATE_LIMITED, "later", retryable=True, retry_after_s=700.0)
    async with worker(says(then=later)) as here:
        await here.run()
        assert await here.kinds() == ["started", "failed"]


@pytest.mark.parametrize(
    ("stream", "fields", "message"),
    [
        (says(hangs=True), {"first_chunk_timeout_s": 0.02}, "first_chunk_timeout_s"),
        (says("a", hangs=True), {"idle_timeout_s": 0.02}, "idle_timeout_s"),
    ],
)
async def test_a_silent_upstream_times_out_and_is_retried(worker, stream, fields, message):
    async with worker(stream, max_attempts=2) as here:
        await here.run(**fields)
        end = (await here.log())[-1]
        assert here.provider.calls == 2
    assert end.error.code is ErrorCode.UPSTREAM_TIMEOUT
    assert message in end.error.message


async def test_signs_of_life_without_text_put_off_the_idle_timeout(worker):
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


async def test_the_deadline_ends_the_job_and_is_not_retried(worker):
    async with worker(says("a", hangs=True)) as here:
        await here.run(deadline_s=0.5)
        events = await here.log()
        assert here.provider.calls == 1
    assert [each.type for each in events] == ["started", "chunk", "failed"]
    assert events[-1].error.code is ErrorCode.DEADLINE_EXCEEDED


async def test_the_deadline_runs_over_all_attempts_from_the_start_of_the_first(
    worker, redis_client
):
    async with worker(says("never")) as here:
        claim = await here.store.claim(JOB_ID, JOB, call="first", deadline_s=50.0)
        await redis_client.hset(names.state_key(JOB_ID), "started_ms", claim.started_ms - 10_000)
        await here.store.release(JOB_ID, 1)
        await here.run(deadline_s=9)
        [event] = await here.log()
        assert here.provider.calls == 0
    assert event.error.code is ErrorCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("answer", ["error", "end"])
async def test_a_provider_that_answers_a_timeout_in_its_own_way_has_timed_out(worker, answer):
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


# Cancelling


async def test_a_running_job_ends_as_cancelled_and_its_stream_is_closed(worker):
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


async def test_a_running_job_sees_the_flag_in_its_record_when_the_message_was_missed(
    worker, redis_client
):
    async with worker(says("a", hangs=True)) as here:
        task = here.start()
        await here.logged(2)
        await redis_client.hset(names.state_key(JOB_ID), "cancel", 1)
        await task
        assert await here.kinds() == ["started", "chunk", "cancelled"]


@pytest.mark.parametrize("answer", ["error", "end"])
async def test_a_provider_that_swallows_a_cancellation_does_not_keep_the_job(worker, answer):
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


async def test_cancelling_while_the_last_event_is_on_its_way_changes_nothing(worker, monkeypatch):
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


async def test_a_job_in_its_back_off_ends_as_cancelled_at_once(worker):
    async with worker(says("half", then=BUSY), retry_base_s=100.0) as here:
        task = here.start()
        await here.logged(2)
        await until(lambda: here.provider.closed)
        await here.runner.cancel(JOB_ID, "requested")
        await task
        assert await here.kinds() == ["started", "chunk", "cancelled"]


async def test_a_queued_job_with_a_record_is_cancelled_by_one_of_all_workers(worker, redis_client):
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


async def test_a_bare_job_whose_flag_was_set_first_is_cancelled_when_it_comes(worker, redis_client):
    async with worker(says("never")) as here:
        await redis_client.hset(names.state_key(JOB_ID), "cancel", 1)
        await here.runner.cancel(JOB_ID, "requested")
        assert await here.log() == []
        await check_keys(redis_client)
        await here.run()
        assert await here.kinds() == ["cancelled"]
        assert here.provider.calls == 0


async def test_a_revoked_job_without_a_record_ends_as_cancelled(worker):
    async with worker(says("never")) as here:
        await here.runner.cancel(JOB_ID, "revoked", only_queued=False)
        [event] = await here.log()
        assert (event.type, event.reason) == ("cancelled", "revoked")


async def test_a_reason_that_is_no_utf_8_cancels_all_the_same(worker):
    async with worker(says("a", hangs=True)) as here:
        task = here.start()
        await here.logged(2)
        await here.runner.cancel(JOB_ID, "half \ud800")
        await task
        assert (await here.log())[-1].reason == "half ?"


async def test_losing_a_job_while_cancelling_it_in_the_queue_does_not_stop_the_canceller(
    worker, redis_client, monkeypatch
):
    append = RedisStore.append

    async def too_late(self, batch):
        await redis_client.hset(names.state_key(JOB_ID), "attempt", 9)
        return await append(self, batch)

    monkeypatch.setattr(RedisStore, "append", too_late)
    async with worker(says("never")) as here:
        await here.runner.cancel(JOB_ID, "requested", only_queued=False)
        assert asyncio.current_task().cancelling() == 0
        assert await here.log() == []


# Losing the job


@pytest.mark.parametrize("stalled", [True, False], ids=["stalled", "streaming"])
async def test_a_job_taken_over_closes_the_stream_here_and_leaves_the_log_to_the_other(
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


async def test_a_renewal_under_way_while_the_next_attempt_begins_is_not_taken_for_a_loss(
    worker, monkeypatch
):
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
        if how.get("held_attempt"):
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


async def test_a_job_goes_on_where_replies_are_lost(worker, redis_url):
    provider = ScriptedProvider(says("a", then=BUSY), says("b"))
    async with loses_replies(redis_url) as lossy, Worker(lossy, provider) as here:
        lossy.lose = 1
        await here.run()
        events = await here.log()
    assert text_of(events) == "b"
    assert {each.attempt for each in events} == {1, 2}


# Cancelled from outside


@pytest.mark.parametrize("deltas", [(), ("half",)])
async def test_a_shutdown_hands_the_job_back_and_the_next_attempt_is_no_strike(
    worker, redis_client, deltas
):
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
async def test_a_revoke_and_a_time_limit_end_the_job(worker, cause, kind):
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
async def test_a_cancellation_while_the_job_is_being_claimed_is_not_lost(
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


# Worker after worker lost


async def test_a_job_that_kills_workers_ends_as_too_many_attempts_and_is_buried(
    worker, redis_client
):
    store = make_store(redis_client)
    async with worker(says("never")) as here:
        for n in range(3):
            claim = await store.claim(JOB_ID, JOB, call=f"victim-{n}", deadline_s=50.0)
            assert claim.status == "claimed"
            await expire_lease(redis_client, JOB_ID)
        await here.run()
        [event] = await here.log()
        assert here.provider.calls == 0
    assert event.error.code is ErrorCode.TOO_MANY_ATTEMPTS
    [(_, letter)] = await redis_client.xrange(names.DEAD_LETTERS)
    assert letter[b"reason"] == b"too_many_attempts"
    assert letter[b"job_id"] == JOB_ID.encode()
    assert json.loads(letter[b"job"]) == job_object()


async def test_one_that_is_given_up_again_since_its_worker_was_stopped_over_it_is_buried_once(
    worker, redis_client, monkeypatch
):
    async with worker(says("never")) as here:
        for n in range(3):
            await here.store.claim(JOB_ID, JOB, call=f"victim-{n}", deadline_s=50.0)
            await expire_lease(redis_client, JOB_ID)
        dead_letter, recorded = here.store.dead_letter, asyncio.Event()

        async def hangs(*args, **kwargs):
            await dead_letter(*args, **kwargs)
            recorded.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(here.store, "dead_letter", hangs)
            async with cancelled(here.start()):
                await recorded.wait()
        await here.run()
        assert await here.kinds() == ["failed"]
    assert await redis_client.xlen(names.DEAD_LETTERS) == 1


async def test_a_message_that_is_discarded_again_is_buried_once_and_another_one_too(
    worker, redis_client
):
    async with worker(says("never")) as here:
        for message in (b"x", b"x", b"y"):
            await here.runner.discard(JOB_ID, "undecodable", "no task", message)
        for _ in range(2):  # nobody knows whether these are one
            await here.runner.discard(None, "undecodable", "no task", b"x")
    letters = [fields for _, fields in await redis_client.xrange(names.DEAD_LETTERS)]
    assert [letter[b"message"] for letter in letters] == [b"x", b"y", b"x", b"x"]


async def struck_twice(redis_client, job_id):
    await load_scripts(redis_client)
    store = make_store(redis_client)
    for n in range(2):
        await store.claim(job_id, JOB, call=f"{job_id}-{n}", deadline_s=50.0)
        await expire_lease(redis_client, job_id)


async def test_the_last_chance_of_a_job_comes_alone_and_who_waits_for_it_is_not_struck(
    worker, redis_client
):
    for job_id in ("killer", "neighbour"):
        await struck_twice(redis_client, job_id)
    async with worker(says("x", hangs=True), says("y")) as here:
        killer = here.start("killer")
        await here.logged(2, "killer")
        neighbour = here.start("neighbour")
        await until(lambda: here.runner.quarantine.waits("neighbour"))
        assert (await record(redis_client, "neighbour"))["status"] == "queued"
        # What does not stand on the brink runs beside it.
        await here.run("innocent")
        # A second message for a job that waits here already is dropped.
        await here.run("neighbour")
        assert here.runner.quarantine.waits("neighbour")
        async with cancelled(killer):
            pass
        await neighbour
        assert (await here.kinds("neighbour")) == ["started", "chunk", "completed"]
    assert (await record(redis_client, "neighbour"))["failed_attempts"] == "2"


async def test_job_that_survives_its_observation_alone_leaves_the_quarantine(worker, redis_client):
    await struck_twice(redis_client, "neighbour")
    async with worker(says("x", hangs=True)) as here:
        here.runner.quarantine.observation_s = 0.01
        neighbour = here.start("neighbour")

        async def cleared():
            return (await record(redis_client, "neighbour"))["failed_attempts"] == "1"

        while not await cleared():  # noqa: ASYNC110  # what is waited for happens in Redis
            await asyncio.sleep(0.001)
        assert not here.runner.quarantine.busy
        async with cancelled(neighbour):
            pass
    # But not for ever: one that kills late would never stop.
    await redis_client.hset(
        names.state_key("neighbour"), mapping={"failed_attempts": 2, "attempt": 9}
    )
    async with worker(says("x")) as here:
        here.runner.quarantine.observation_s = 0.0
        await here.run("neighbour")
    assert (await record(redis_client, "neighbour"))["failed_attempts"] == "2"


async def test_of_many_jobs_in_quarantine_a_group_begins_together_and_its_loss_ends_no_job(
    worker, redis_client
):
    # One begins alone; of the 17 others 8 begin together, with one failed attempt cleared.
    jobs = [f"job-{n}" for n in range(18)]
    for job_id in jobs:
        await struck_twice(redis_client, job_id)
    async with worker(says("x", hangs=True)) as here:
        tasks = {job_id: here.start(job_id) for job_id in jobs}
        waits = here.runner.quarantine.waits
        await until(lambda: all(waits(job_id) for job_id in jobs[1:]))
        async with cancelled(tasks.pop(jobs[0])):
            pass
        group = [job_id for job_id in tasks if not waits(job_id)]
        assert len(group) == 8
        for job_id in group:
            await here.logged(2, job_id)
        for job_id in tasks:
            failed_attempts = "1" if job_id in group else "2"
            assert (await record(redis_client, job_id))["failed_attempts"] == failed_attempts
        # Those that wait first, lest they take the turn of another.
        for job_id in sorted(tasks, key=waits, reverse=True):
            async with cancelled(tasks[job_id]):
                pass
        assert not here.runner.quarantine.busy


async def test_job_released_while_it_waits_in_quarantine_is_free_for_other_workers(
    worker, redis_client
):
    for job_id in ("killer", "neighbour"):
        await struck_twice(redis_client, job_id)
    async with worker(says("x", hangs=True)) as here:
        killer, neighbour = here.start("killer"), here.start("neighbour")
        await until(lambda: here.runner.quarantine.waits("neighbour"))
        for task in (killer, neighbour):
            async with cancelled(task):
                pass
        assert not here.runner.quarantine.waits("neighbour")
    for job_id in ("killer", "neighbour"):
        kept = await record(redis_client, job_id)
        assert (kept["status"], kept["failed_attempts"]) == ("queued", "2")


@pytest.mark.parametrize(
    ("on_interrupt", "kinds", "text"),
    [
        ("restart", ["started", "chunk", "reset", "chunk", "completed"], "whole"),
        ("keep", ["started", "chunk", "completed"], "half"),
        ("fail", ["started", "chunk", "failed"], "half"),
    ],
)
async def test_a_job_taken_over_after_chunks_goes_on_as_it_asks(
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


# Outages


class SoftLimit(SoftTimeLimitExceeded, asyncio.CancelledError):
    """What the pool raises in the coroutine of a task."""


@types.coroutine
def limited(coro):
    """``coro`` as the pool runs it: a soft limit is raised in it where it is cancelled."""
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


async def test_a_soft_time_limit_ends_the_job_and_is_no_bug_of_the_provider(worker):
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


async def test_a_server_emptied_while_a_job_streams_stops_it_and_gets_no_half_log(
    worker, redis_client
):
    async def stream(job, report):
        while True:
            yield ["x"]
            await asyncio.sleep(0.001)

    async with worker(stream) as here:
        task = here.start()
        await here.logged(3)
        await redis_client.flushall()
        await load_scripts(redis_client)
        await task
        assert here.provider.closed == 1
        assert await redis_client.dbsize() == 0


async def test_a_job_streams_through_a_restart_of_the_server_and_loses_nothing():
    binary = find_server()
    if binary is None:
        pytest.skip("no server binary")
    down, up = asyncio.Event(), asyncio.Event()
    said = [f"{n} " for n in range(300)]

    async def stream(job, report):
        for n, delta in enumerate(said):
            yield [delta]
            if n == 100:
                down.set()
            await asyncio.sleep(0.001)
        await up.wait()

    config = {"appendonly": "yes", "appendfsync": "always"}
    with RedisProcess(binary, config) as server:
        async with (
            redis.asyncio.Redis.from_url(server.url) as client,
            Worker(client, ScriptedProvider(stream)) as here,
        ):
            task = here.start()
            await down.wait()
            server.kill()
            await until(lambda: here.journal.buffered_bytes > 0)
            await asyncio.to_thread(server.start)
            up.set()
            await task
            events = await here.log()
    assert text_of(events) == "".join(said)
    assert [each.type for each in events] == ["started", *["chunk"] * 300, "completed"]
    assert {each.attempt for each in events} == {1}


async def test_log_of_an_ended_job_names_the_provider_that_answered(worker, caplog):
    caplog.set_level(logging.INFO, job_end.__name__)
    async with worker(says("a"), defaults=JobDefaults("own", "m")) as here:
        await here.run("defaults")
        await here.run("named", provider="other", model="n")
        here.provider.refuses = JobError(ErrorCode.INVALID_JOB, "options: no such name")
        await here.run("refused")
    ended = [getattr(record, job_end.ATTRIBUTE) for record in caplog.records]
    assert [(each["job_id"], each["provider"], each["model"]) for each in ended] == [
        ("defaults", "own", "m"),
        ("named", "other", "n"),
        ("refused", "own", "m"),
    ]
