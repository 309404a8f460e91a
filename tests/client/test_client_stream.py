"""Streams of the asynchronous client: replay, live events, gaps and missing jobs."""

import asyncio
import json

import pytest

from berlin_schemas import Completed, names
from berlin_worker.client import CursorExpired, Unavailable, UnsupportedVersion
from tests.support.client_helpers import JOB, seqs, wait_for_readers

pytestmark = pytest.mark.contract


async def test_finished_job_is_replayed(client, writer):
    await writer.whole("a", "b")
    assert await seqs(client.stream(JOB)) == [1, 2, 3, 4]


async def test_stream_continues_after_the_cursor(client, writer):
    await writer.whole("a", "b")
    assert await seqs(client.stream(JOB, after=2)) == [3, 4]


async def test_no_event_follows_the_terminal_event(client, writer):
    await writer.whole("a")
    assert await seqs(client.stream(JOB, after=3)) == []
    assert await seqs(client.stream(JOB, after=30)) == []


async def test_log_longer_than_a_page_is_read_to_its_end(client, writer):
    await writer.long_log(1200)
    await writer.completed()
    assert await seqs(client.stream(JOB)) == list(range(1, 1203))


async def test_early_reader_receives_events_as_they_are_published(client, writer):
    stream = client.stream(JOB)
    await writer.queued()
    reading = asyncio.create_task(seqs(stream))
    await wait_for_readers(writer.client, 1)
    await writer.whole("a", "b", "c")
    assert await reading == [1, 2, 3, 4, 5]


async def test_reader_that_joins_in_the_middle_misses_nothing(client, writer):
    await writer.started()
    await writer.chunk("a")
    async with client.stream(JOB) as stream:
        assert [(await anext(stream)).seq for _ in range(2)] == [1, 2]
        await writer.chunk("b")
        await writer.completed()
        assert await seqs(stream) == [3, 4]


async def test_lost_message_is_read_from_the_log_at_the_next_one(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        await writer.chunk("a", publish=False)
        await writer.chunk("b")
        await writer.completed()
        assert await seqs(stream) == [2, 3, 4]


async def test_lost_terminal_event_does_not_hang_the_reader(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        await writer.completed(publish=False)
        assert await seqs(stream) == [2]


async def test_garbage_on_the_channel_is_ignored(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        await writer.client.publish(names.channel(JOB), b"\xff{")
        await writer.chunk("a")
        await writer.completed()
        assert await seqs(stream) == [2, 3]


async def test_event_types_of_a_later_version_are_skipped(client, writer):
    await writer.started()
    unknown = {"v": 1, "job_id": JOB, "seq": 2, "attempt": 1, "ts": 0, "type": "thought"}
    await writer.append_raw(json.dumps(unknown).encode())
    await writer.completed()
    assert await seqs(client.stream(JOB)) == [1, 3]


async def test_terminal_event_of_another_version_is_an_error(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        end = {"v": 2, "job_id": JOB, "seq": 2, "attempt": 1, "ts": 0, "type": "completed"}
        await writer.append_raw(json.dumps(end).encode())
        with pytest.raises(UnsupportedVersion, match="version 2"):
            await anext(stream)
    with pytest.raises(UnsupportedVersion):
        await client.result(JOB)


async def test_job_without_record_or_log_is_an_error_after_the_wait(client):
    with pytest.raises(CursorExpired, match="no record"):
        await seqs(client.stream("never-existed"))


async def test_caller_chooses_how_long_to_wait_for_the_start(client, writer):
    reading = asyncio.create_task(seqs(client.stream(JOB, wait_for_start_s=3600)))
    await wait_for_readers(writer.client, 1)
    await writer.whole("a")
    assert await reading == [1, 2, 3]


async def test_reader_waits_without_limit_for_a_queued_job(client, writer):
    await writer.queued()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(seqs(client.stream(JOB)), 1.5)


async def test_cursor_into_an_expired_log_is_an_immediate_error(client):
    with pytest.raises(CursorExpired):
        await seqs(client.stream(JOB, after=7, wait_for_start_s=3600))


async def test_log_deleted_during_the_read_is_an_error(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        await writer.client.delete(names.log_key(JOB), names.state_key(JOB))
        with pytest.raises(CursorExpired):
            await anext(stream)


async def test_log_that_went_back_and_grew_again_is_an_error(client, writer):
    await writer.started()
    await writer.chunk("a")
    await writer.chunk("b")
    async with client.stream(JOB) as stream:
        assert [(await anext(stream)).seq for _ in range(3)] == [1, 2, 3]
        await writer.client.delete(names.log_key(JOB))
        writer.seq = 0
        await writer.started()
        for content in "xyz":
            await writer.chunk(content, publish=False)
        await writer.completed()
        with pytest.raises(CursorExpired, match="another event 3"):
            await anext(stream)


async def test_key_of_another_type_fails_only_its_own_reader(client, writer):
    await writer.whole("a")
    await writer.client.set(names.log_key("odd"), "no log", ex=60)
    readings = [seqs(client.stream(job_id)) for job_id in ("odd", JOB, "odd", JOB)]
    odd, fine, *_ = await asyncio.gather(*readings, return_exceptions=True)
    assert isinstance(odd, Unavailable)
    assert fine == [1, 2, 3]


async def test_readers_of_one_job_share_a_subscription_and_receive_all_events(client, writer):
    await writer.queued()
    reading = [asyncio.create_task(seqs(client.stream(JOB))) for _ in range(5)]
    await wait_for_readers(writer.client, 1)
    await writer.whole("a", "b")
    assert await asyncio.gather(*reading) == [[1, 2, 3, 4]] * 5


async def test_wait_for_an_event_may_time_out_and_be_resumed(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.05)
        await writer.completed()
        assert await seqs(stream) == [2]


async def test_last_event_of_a_stream_is_the_terminal_one(client, writer):
    await writer.whole("a")
    assert isinstance([event async for event in client.stream(JOB)][-1], Completed)
