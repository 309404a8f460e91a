"""Attempts after a failure of the upstream, and what they keep of earlier chunks."""

import asyncio

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from tests.support.harness import BUSY, says
from tests.support.store_helpers import text_of

pytestmark = pytest.mark.contract


async def test_retry_before_the_first_chunk_opens_with_started(worker):
    async with worker(says(then=BUSY), says("ok")) as here:
        await here.run(on_interrupt="fail")
        events = await here.log()
    assert [(each.type, each.attempt) for each in events] == [
        ("started", 1),
        ("started", 2),
        ("chunk", 2),
        ("completed", 2),
    ]


async def test_restart_after_chunks_discards_them(worker):
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


async def test_on_interrupt_fail_ends_with_the_error_of_the_attempt(worker):
    async with worker(says("half", then=BUSY)) as here:
        await here.run(on_interrupt="fail")
        events = await here.log()
    assert [each.type for each in events] == ["started", "chunk", "failed"]
    error = events[-1].error
    assert (error.code, error.retryable, error.upstream_status) == ("upstream_error", True, 503)


async def test_on_interrupt_keep_completes_with_the_chunks_so_far(worker):
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


async def test_provider_that_cancels_itself_fails_and_is_not_restarted(worker):
    async def stream(job, report):
        yield ["half"]
        raise asyncio.CancelledError

    async with worker(stream) as here:
        await here.run()
        events = await here.log()
        assert here.provider.calls == 1
    assert [each.type for each in events] == ["started", "chunk", "failed"]
    assert (events[-1].error.code, events[-1].error.retryable) == ("internal", False)


async def test_last_attempt_ends_with_its_own_error(worker):
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
