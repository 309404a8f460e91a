"""Ends of a reader and of a client: subscriptions and connections are closed."""

import asyncio
import gc

import pytest

from berlin_worker.client import AsyncClient, ClientError
from berlin_worker.settings import Settings
from tests.support.client_helpers import JOB, seqs, wait_for_readers
from tests.support.proxy import TcpProxy
from tests.support.waiting import stopped, until

pytestmark = pytest.mark.contract


async def test_breaking_out_unsubscribes(client, writer):
    await writer.started()
    async for _ in client.stream(JOB):
        break
    gc.collect()
    await wait_for_readers(writer.client, 0)


async def test_closing_unsubscribes_and_ends_the_iterator(client, writer):
    await writer.whole("a")
    stream = client.stream(JOB)
    await anext(stream)
    await stream.aclose()
    assert await seqs(stream) == []
    await wait_for_readers(writer.client, 0)


async def test_closing_ends_a_reader_that_waits_in_another_task(client, writer):
    await writer.queued()
    stream = client.stream(JOB)
    reading = asyncio.create_task(seqs(stream))
    await wait_for_readers(writer.client, 1)
    await stream.aclose()
    assert await asyncio.wait_for(reading, 30) == []
    await wait_for_readers(writer.client, 0)


async def test_cancelled_reader_unsubscribes(client, writer):
    await writer.queued()
    reading = asyncio.create_task(seqs(client.stream(JOB)))
    await wait_for_readers(writer.client, 1)
    await stopped(reading)
    del reading
    gc.collect()
    await wait_for_readers(writer.client, 0)


async def test_stream_reopened_at_once_still_receives_events(client, writer):
    await writer.started()
    for _ in range(20):
        async with client.stream(JOB, after=1):
            pass
    async with client.stream(JOB, after=1) as stream:
        await wait_for_readers(writer.client, 1)
        await writer.completed()
        assert await seqs(stream) == [2]


async def test_closing_the_client_ends_its_readers_with_an_error(redis_url, writer):
    await writer.queued()
    client = AsyncClient(redis_url, settings=Settings())
    reading = asyncio.create_task(seqs(client.stream(JOB)))
    await wait_for_readers(writer.client, 1)
    await client.aclose()
    with pytest.raises(ClientError, match="closed"):
        await reading


async def test_reading_with_a_closed_client_is_an_immediate_error(client, writer):
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
async def test_closed_client_opens_no_connection(redis_url, writer, use):
    with TcpProxy.of(redis_url) as proxy:
        client = AsyncClient(proxy.url_of(redis_url), "memory://", settings=Settings())
        await client.aclose()
        with pytest.raises(ClientError, match="closed"):
            await use(client)
        assert proxy.accepted == 0


async def test_requests_pending_at_the_close_leave_no_connection(redis_url, writer):
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
        await until(lambda: proxy.connections == 0)
