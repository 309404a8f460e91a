"""Streams of the asynchronous client: replay, live events, gaps and missing jobs."""

import asyncio
import json

import pytest

from berlin_schemas import Completed, names
from berlin_worker.client import CursorExpired, Unavailable, UnsupportedVersion
from tests.support.client_helpers import JOB, seqs, wait_for_readers

pytestmark = pytest.mark.contract


async def test_a_job_that_is_over_is_replayed(client, writer):
    await writer.whole("a", "b")
    assert await seqs(client.stream(JOB)) == [1, 2, 3, 4]


async def test_reading_goes_on_after_the_cursor(client, writer):
    await writer.whole("a", "b")
    assert await seqs(client.stream(JOB, after=2)) == [3, 4]


async def test_nothing_follows_the_terminal_event(client, writer):
    await writer.whole("a")
    assert await seqs(client.stream(JOB, after=3)) == []
    assert await seqs(client.stream(JOB, after=30)) == []


async def test_a_log_longer_than_a_page_is_read_to_its_end(client, writer):
    await writer.long_log(1200)
    await writer.completed()
    assert await seqs(client.stream(JOB)) == list(range(1, 1203))


async def test_a_reader_from_the_beginning_sees_events_as_they_come(client, writer):
    stream = client.stream(JOB)
    await writer.queued()
    reading = asyncio.create_task(seqs(stream))
    await wait_for_readers(writer.client, 1)
    await writer.whole("a", "b", "c")
    assert await reading == [1, 2, 3, 4, 5]


async def test_a_reader_that_joins_in_the_middle_misses_nothing(client, writer):
    await writer.started()
    await writer.chunk("a")
    async with client.stream(JOB) as stream:
        assert [(await anext(stream)).seq for _ in range(2)] == [1, 2]
        await writer.chunk("b")
        await writer.completed()
        assert await seqs(stream) == [3, 4]


async def test_a_lost_message_is_fetched_from_the_log_by_the_next_one(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        await writer.chunk("a", publish=False)
        await writer.chunk("b")
        await writer.completed()
        assert await seqs(stream) == [2, 3, 4]


async def test_a_lost_terminal_event_does_not_hang_the_reader(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        await writer.completed(publish=False)
        assert await seqs(stream) == [2]


async def test_what_is_no_event_on_the_channel_is_ignored(client, writer):
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


async def test_an_end_of_another_version_is_no_silence(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        end = {"v": 2, "job_id": JOB, "seq": 2, "attempt": 1, "ts": 0, "type": "completed"}
        await writer.append_raw(json.dumps(end).encode())
        with pytest.raises(UnsupportedVersion, match="version 2"):
            await anext(stream)
    with pytest.raises(UnsupportedVersion):
        await client.result(JOB)


async def test_a_job_without_a_trace_is_waited_for_and_then_an_error(client):
    with pytest.raises(CursorExpired, match="no record"):
        await seqs(client.stream("never-existed"))


async def test_how_long_a_job_is_waited_for_is_the_callers_choice(client, writer):
    reading = asyncio.create_task(seqs(client.stream(JOB, wait_for_start_s=3600)))
    await wait_for_readers(writer.client, 1)
    await writer.whole("a")
    assert await reading == [1, 2, 3]


async def test_a_job_that_waits_in_the_queue_is_waited_for_without_limit(client, writer):
    await writer.queued()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(seqs(client.stream(JOB)), 1.5)


async def test_a_cursor_whose_log_is_gone_is_an_error_at_once(client):
    with pytest.raises(CursorExpired):
        await seqs(client.stream(JOB, after=7, wait_for_start_s=3600))


async def test_a_log_that_vanishes_while_it_is_read_is_an_error(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        await writer.client.delete(names.log_key(JOB), names.state_key(JOB))
        with pytest.raises(CursorExpired):
            await anext(stream)


async def test_a_key_of_another_type_is_the_trouble_of_its_own_reader_alone(client, writer):
    await writer.whole("a")
    await writer.client.set(names.log_key("odd"), "no log", ex=60)
    readings = [seqs(client.stream(job_id)) for job_id in ("odd", JOB, "odd", JOB)]
    odd, fine, *_ = await asyncio.gather(*readings, return_exceptions=True)
    assert isinstance(odd, Unavailable)
    assert fine == [1, 2, 3]


async def test_readers_of_one_job_share_its_subscription_and_see_all_of_it(client, writer):
    await writer.queued()
    reading = [asyncio.create_task(seqs(client.stream(JOB))) for _ in range(5)]
    await wait_for_readers(writer.client, 1)
    await writer.whole("a", "b")
    assert await asyncio.gather(*reading) == [[1, 2, 3, 4]] * 5


async def test_waiting_for_an_event_may_time_out_and_be_taken_up_again(client, writer):
    await writer.started()
    async with client.stream(JOB) as stream:
        await anext(stream)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.05)
        await writer.completed()
        assert await seqs(stream) == [2]


async def test_the_last_event_of_a_stream_is_the_terminal_one(client, writer):
    await writer.whole("a")
    assert isinstance([event async for event in client.stream(JOB)][-1], Completed)
