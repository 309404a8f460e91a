"""Lost connections, stalled readers and many jobs at once: nothing is lost, nothing grows."""

import asyncio
import random

import pytest
import redis.asyncio

from berlin_worker.client import AsyncClient, Unavailable
from berlin_worker.client import subscriptions as subscriptions_module
from tests.support.client_helpers import make_client, open_connections, seqs, wait_for_channels
from tests.support.job_writer import JobWriter
from tests.support.own_server import own_server
from tests.support.proxy import TcpProxy
from tests.support.waiting import until

pytestmark = pytest.mark.contract

JOBS = 200
CHUNKS = 20


async def written(server, job_id: str) -> str:
    """Write a job that is over, and return its ID."""
    await JobWriter(server, job_id).whole("a")
    return job_id


async def write_all(server, ids: list[str]) -> None:
    """Write all jobs to their ends, in turn, one event of each at a time."""
    writers = [JobWriter(server, job_id) for job_id in ids]
    for writer in writers:
        await writer.started()
    for _ in range(CHUNKS):
        for writer in writers:
            await writer.chunk("x")
    for writer in writers:
        await writer.completed()


async def test_many_jobs_of_one_client_share_one_connection_and_lose_nothing(
    server, real_redis_url
):
    ids = [f"job-{n}" for n in range(JOBS)]
    for job_id in ids[::2]:
        await JobWriter(server, job_id).queued()
    before = await open_connections(server)
    async with make_client(real_redis_url, reread_after_s=0.1) as client:
        reading = [asyncio.create_task(seqs(client.stream(job_id))) for job_id in ids]
        await wait_for_channels(server, JOBS)
        last = await client.stream(await written(server, "over")).batch()
        assert last[-1].type == "completed"  # the others have read their logs by now
        assert len(await open_connections(server) - before) == 1
        await write_all(server, ids)
        assert await asyncio.gather(*reading) == [list(range(1, CHUNKS + 3))] * JOBS
        await wait_for_channels(server, 0)


async def test_readers_survive_the_loss_of_their_connection_again_and_again(server, real_redis_url):
    ids = [f"job-{n}" for n in range(20)]
    async with make_client(real_redis_url, reread_after_s=0.3) as client:
        reading = [asyncio.create_task(seqs(client.stream(job_id))) for job_id in ids]
        await wait_for_channels(server, len(ids))
        writing = asyncio.create_task(write_all(server, ids))
        while not writing.done():
            await server.client_kill_filter(_type="pubsub")
            await asyncio.sleep(random.uniform(0, 0.05))
        await writing
        assert await asyncio.gather(*reading) == [list(range(1, CHUNKS + 3))] * len(ids)


async def test_events_published_during_a_disconnection_are_read_after_it(server, real_redis_url):
    """A reconnect alone causes the reading: looking at the log by time is switched off."""
    writer = JobWriter(server, "job-1")
    await writer.started()
    async with make_client(real_redis_url, reread_after_s=3600) as client:
        stream = client.stream("job-1")
        await anext(stream)
        await writer.client.client_kill_filter(_type="pubsub")
        await writer.completed()
        assert await asyncio.wait_for(seqs(stream), 30) == [2]


async def test_stalled_reader_buffers_little_and_receives_everything(server, real_redis_url):
    writer = JobWriter(server, "job-1")
    await writer.started()
    async with make_client(real_redis_url, buffer_bytes=10_000) as client:
        stream = client.stream("job-1")
        assert (await anext(stream)).seq == 1
        for _ in range(300):
            await writer.chunk("x" * 100)
        witness = await seqs_of(client, "job-1", 301)  # so that all has arrived by now
        assert len(witness) == 301
        held = sum(map(len, stream._subscription._messages))
        assert held <= 10_000
        await writer.completed()
        assert await seqs(stream) == list(range(2, 303))


@pytest.mark.parametrize("listening", [True, False])
async def test_half_open_connection_is_replaced(server, real_redis_url, monkeypatch, listening):
    monkeypatch.setattr(subscriptions_module, "_PING_EVERY_S", 0.1)
    writer = JobWriter(server, "job-1")
    await writer.started()
    with TcpProxy.of(real_redis_url) as proxy:
        url = proxy.url_of(real_redis_url)
        async with make_client(url, reread_after_s=3600 if listening else 0.1) as client:
            stream = client.stream("job-1")
            await anext(stream)
            rest = asyncio.create_task(seqs(stream))
            await asyncio.sleep(0)  # it waits for a message, or asks for what it may have missed
            proxy.blackhole()
            await writer.chunk("a")
            await writer.completed()
            proxy.heal()
            assert await asyncio.wait_for(rest, 60) == [2, 3]


async def test_requests_to_a_stalled_server_are_repeated_over_a_new_connection(
    server, real_redis_url, monkeypatch
):
    """The server stops while thousands of subscriptions are under way."""
    monkeypatch.setattr(subscriptions_module, "_PING_EVERY_S", 0.1)
    ids = [f"job-{n:0>100}" for n in range(5000)]
    await written(server, ids[0])
    await written(server, ids[-1])
    with TcpProxy.of(real_redis_url) as proxy:
        async with make_client(proxy.url_of(real_redis_url)) as client:
            assert len(await seqs(client.stream(ids[0]))) == 3
            proxy.stall()
            reading = [asyncio.create_task(seqs(client.stream(job_id))) for job_id in ids]
            await until(lambda: proxy.accepted >= 2, timeout_s=30)
            proxy.heal()
            assert await asyncio.wait_for(reading[-1], 60) == [1, 2, 3]
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)


async def test_forbidden_channel_fails_only_its_own_reader():
    with own_server() as process:
        async with redis.asyncio.Redis.from_url(process.url) as server:
            await server.acl_setuser(
                "narrow",
                enabled=True,
                nopass=True,
                keys=["*"],
                channels=["job:good*"],
                commands=["+@all"],
            )
            writer = JobWriter(server, "good-1")
            await writer.started()
            url = process.url.replace("redis://", "redis://narrow:any@")
            async with make_client(url, reread_after_s=3600) as client:
                good = client.stream("good-1")
                refused = asyncio.create_task(seqs(client.stream("bad-1")))
                assert (await anext(good)).seq == 1
                with pytest.raises(Unavailable, match="refuses this user"):
                    await refused
                with pytest.raises(Unavailable, match="refuses this user"):
                    async with client.stream("bad-1"):
                        pass
                await writer.completed()
                assert await asyncio.wait_for(seqs(good), 30) == [2]


async def test_all_readers_of_an_unavailable_server_give_up_in_time():
    """They wait at the same time: one after the other they would wait for minutes."""
    with own_server(appendonly="yes", appendfsync="always") as process:
        async with (
            redis.asyncio.Redis.from_url(process.url) as server,
            make_client(process.url, reread_after_s=0.1, give_up_after_s=1) as client,
        ):
            ids = [f"job-{n}" for n in range(400)]
            for job_id in ids:
                await JobWriter(server, job_id).started()
            streams = [client.stream(job_id) for job_id in ids]
            await asyncio.gather(*map(anext, streams))
            process.kill()
            rest = asyncio.gather(*map(anext, streams), return_exceptions=True)
            ends = await asyncio.wait_for(rest, 30)
            assert {type(end) for end in ends} == {Unavailable}


async def seqs_of(client: AsyncClient, job_id: str, count: int) -> list[int]:
    async with client.stream(job_id) as stream:
        return [(await anext(stream)).seq for _ in range(count)]
