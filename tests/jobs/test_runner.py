"""A job from its claim to its end: events, text, timings and the log line."""

import asyncio
import logging

import pytest

from berlin_schemas import ErrorCode, names
from berlin_worker.errors import JobError
from berlin_worker.providers.defaults import JobDefaults
from berlin_worker.telemetry import job_end
from tests.support.harness import JOB_ID, says
from tests.support.store_helpers import JOB, raw_log, subscribed, text_of

pytestmark = pytest.mark.contract


async def test_job_starts_streams_and_completes(worker, redis_client):
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


async def test_job_without_text_completes(worker):
    async with worker(says()) as here:
        await here.run()
        events = await here.log()
    assert [each.type for each in events] == ["started", "completed"]
    assert events[-1].timings.first_chunk_ms is None
    assert events[-1].usage is None


async def test_usage_that_no_event_can_hold_fails_no_job(worker):
    async def stream(job, report):
        yield ["Hello"]
        report.usage = {"total_tokens": 7, "note": "\ud83d"}

    async with worker(stream) as here:
        await here.run()
        end = (await here.log())[-1]
    assert (end.type, end.usage) == ("completed", {"total_tokens": 7})


async def test_queue_time_counts_from_the_submission(worker, redis_client):
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


async def test_concurrent_jobs_do_not_mix_their_text(worker):
    async def stream(job, report):
        for n in range(20):
            yield [f"{job.metadata['name']}:{n} "]
            await asyncio.sleep(0)

    async with worker(stream) as here:
        ids = [f"job-{n}" for n in range(30)]
        await asyncio.gather(*(here.run(each, metadata={"name": each}) for each in ids))
        for each in ids:
            assert text_of(await here.log(each)) == "".join(f"{each}:{n} " for n in range(20))


async def test_full_buffer_pauses_reading_without_an_idle_timeout(worker):
    async with worker(says(*["x" * 500] * 40), buffer_bytes=600) as here:
        await here.run(idle_timeout_s=5.0)
        assert len(await here.log()) == 42


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
