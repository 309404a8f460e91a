"""The asynchronous client against a server: reading, results, status, cancelling."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from berlin_schemas import Completed, names
from berlin_worker.client import (
    AsyncClient,
    ClientError,
    CursorExpired,
    JobFailed,
    JobStatus,
    Options,
    Unavailable,
    UnsupportedVersion,
)
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings
from tests.support.job_writer import JobWriter
from tests.support.proxy import TcpProxy
from tests.support.waiting import stopped

pytestmark = pytest.mark.contract

JOB = "job-1"


@pytest.fixture
async def client(redis_url) -> AsyncIterator[AsyncClient]:
    options = Options(reread_after_s=0.2, wait_for_start_s=0.4)
    async with AsyncClient(redis_url, settings=Settings(), options=options) as client:
        yield client


@pytest.fixture
def writer(redis_client) -> JobWriter:
    return JobWriter(redis_client, JOB)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110  # the condition is the server's
            await asyncio.sleep(0.01)


async def seqs(stream) -> list[int]:
    return [event.seq async for event in stream]


async def readers(redis_client, job_id=JOB) -> int:
    [(_, count)] = await redis_client.pubsub_numsub(names.channel(job_id))
    return count


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
    await until(lambda: _is(readers(writer.client), 1))
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
    await until(lambda: _is(readers(writer.client), 1))
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
    await until(lambda: _is(readers(writer.client), 1))
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


async def test_breaking_out_unsubscribes(client, writer):
    await writer.started()
    async for _ in client.stream(JOB):
        break
    gc.collect()
    await until(lambda: _is(readers(writer.client), 0))


async def test_closing_unsubscribes_and_ends_the_iterator(client, writer):
    await writer.whole("a")
    stream = client.stream(JOB)
    await anext(stream)
    await stream.aclose()
    assert await seqs(stream) == []
    await until(lambda: _is(readers(writer.client), 0))


async def test_a_reader_that_is_cancelled_unsubscribes(client, writer):
    await writer.queued()
    reading = asyncio.create_task(seqs(client.stream(JOB)))
    await until(lambda: _is(readers(writer.client), 1))
    await stopped(reading)
    del reading
    gc.collect()
    await until(lambda: _is(readers(writer.client), 0))


async def test_opened_closed_and_opened_again_at_once_still_hears(client, writer):
    await writer.started()
    for _ in range(20):
        async with client.stream(JOB, after=1):
            pass
    async with client.stream(JOB, after=1) as stream:
        await until(lambda: _is(readers(writer.client), 1))
        await writer.completed()
        assert await seqs(stream) == [2]


async def test_closing_the_client_ends_its_readers_with_an_error(redis_url, writer):
    await writer.queued()
    client = AsyncClient(redis_url, settings=Settings())
    reading = asyncio.create_task(seqs(client.stream(JOB)))
    await until(lambda: _is(readers(writer.client), 1))
    await client.aclose()
    with pytest.raises(ClientError, match="closed"):
        await reading


async def test_the_result_is_the_text_after_the_last_reset(client, writer):
    await writer.started()
    await writer.chunk("wrong")
    await writer.reset()
    await writer.chunk("right, ")
    await writer.chunk("right")
    await writer.completed(usage={"total_tokens": 3})
    result = await client.result(JOB)
    assert result.text == "right, right"
    assert (result.finish_reason, result.usage) == ("stop", {"total_tokens": 3})
    assert result.timings.total_ms == 6


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_a_job_without_a_result_raises_its_terminal_event(client, writer, end):
    await writer.started()
    await getattr(writer, end)()
    with pytest.raises(JobFailed) as caught:
        await client.result(JOB)
    assert caught.value.event.type == end


async def test_waiting_for_a_result_is_bounded(client, writer):
    await writer.queued()
    with pytest.raises(TimeoutError):
        await client.result(JOB, timeout_s=0.1)
    await until(lambda: _is(readers(writer.client), 0))


async def test_status_tells_what_the_record_says(client, writer):
    assert await client.status(JOB) == JobStatus(JOB, "unknown")
    await writer.queued()
    assert await client.status(JOB) == JobStatus(JOB, "queued", created_ts=1.0)
    await writer.started()
    await client.cancel(JOB)
    running = JobStatus(JOB, "running", attempt=1, seq=1, cancel_requested=True, created_ts=1.0)
    assert await client.status(JOB) == running


async def test_cancelling_sets_the_flag_and_tells_the_workers(client, redis_client):
    async with redis_client.pubsub() as control:
        await control.subscribe(names.CONTROL_CHANNEL)
        await control.get_message(timeout=5)
        await client.cancel(JOB, reason="changed my mind")
        message = await control.get_message(timeout=5)
    assert json.loads(message["data"]) == {"cancel": JOB, "reason": "changed my mind"}
    assert await redis_client.hget(names.state_key(JOB), "cancel") == b"1"
    assert await redis_client.ttl(names.state_key(JOB)) > 0


async def test_cancelling_leaves_the_ttl_of_a_record_alone(client, writer):
    await writer.queued()
    await writer.client.expire(names.state_key(JOB), 50)
    await client.cancel(JOB)
    assert 0 < await writer.client.ttl(names.state_key(JOB)) <= 50


@pytest.mark.parametrize("call", ["stream", "cancel", "status", "result"])
async def test_a_name_that_is_no_job_id_reaches_no_key(client, call):
    with pytest.raises(ValueError, match="job ID"):
        await getattr(client, call)("a:b*")


async def test_a_server_that_is_not_there_is_an_error_without_the_password():
    options = Options(give_up_after_s=0.3, submit_timeout_s=0.3)
    url = f"redis://user:hunter2@127.0.0.1:{free_port()}/0"
    async with AsyncClient(url, settings=Settings(), options=options) as client:
        for call in (client.status, client.cancel, client.result):
            with pytest.raises(Unavailable) as caught:
                await call(JOB)
            assert "127.0.0.1" in str(caught.value)
            assert "hunter2" not in str(caught.value)


async def test_the_last_event_of_a_stream_is_the_terminal_one(client, writer):
    await writer.whole("a")
    assert isinstance([event async for event in client.stream(JOB)][-1], Completed)


async def _is(asked: Awaitable[int], wanted: int) -> bool:
    return await asked == wanted


async def test_a_stream_that_is_read_no_further_keeps_no_one_from_asking(redis_url, redis_client):
    """Nothing is connected for it yet, and nothing would ever answer there."""
    await redis_client.set(names.SHARDS, "3")
    async with AsyncClient(redis_url, settings=Settings()) as client:
        client.stream(JOB)
        with pytest.raises(SettingsError):
            await client.status(JOB)


async def test_reading_after_the_client_is_closed_is_an_error_at_once(client, writer):
    await writer.long_log(600)
    begun, new = client.stream(JOB), client.stream(JOB)
    assert len(await begun.batch()) == 500
    await client.aclose()
    for stream in (begun, new):
        with pytest.raises(ClientError, match="closed"):
            await stream.batch()


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.status(JOB),
        lambda client: client.cancel(JOB),
        lambda client: client.submit("Hi"),
        lambda client: client.result(JOB),
    ],
    ids=["status", "cancel", "submit", "result"],
)
async def test_a_closed_client_connects_no_more(redis_url, writer, use):
    with TcpProxy.of(redis_url) as proxy:
        client = AsyncClient(proxy.url_of(redis_url), "memory://", settings=Settings())
        await client.aclose()
        with pytest.raises(ClientError, match="closed"):
            await use(client)
        assert proxy.accepted == 0


async def test_what_is_being_asked_as_the_client_is_closed_leaves_no_connection(redis_url, writer):
    await writer.started()
    with TcpProxy.of(redis_url) as proxy:
        for steps in range(40):
            client = AsyncClient(proxy.url_of(redis_url), settings=Settings())
            asking = [
                asyncio.create_task(client.status(JOB)),
                asyncio.create_task(seqs(client.stream(JOB))),
            ]
            for _ in range(steps):  # wherever they are by then
                await asyncio.sleep(0)
            await client.aclose()
            await asyncio.wait(asking)
            for asked in asking:
                assert asked.exception() is None or isinstance(asked.exception(), ClientError)
        await until(lambda: _is(_open(proxy), 0))


async def _open(proxy: TcpProxy) -> int:
    return proxy.connections


@pytest.mark.parametrize("wrong", ["redis://h:99999", "redis://h?nonsense=4", "http://h"])
async def test_a_url_of_which_no_connection_can_be_made_is_an_error_at_once(wrong):
    with pytest.raises(SettingsError, match=r"^redis_url: "):
        AsyncClient(wrong, settings=Settings())
