"""Jobs that run through lost replies, an emptied server and a restart of Redis."""

import asyncio

import pytest
import redis.asyncio

from berlin_worker.embedded.redis_server import RedisProcess, find_server
from tests.support.harness import BUSY, ScriptedProvider, Worker, says
from tests.support.store_helpers import load_scripts, loses_replies, text_of
from tests.support.waiting import until

pytestmark = pytest.mark.contract


async def test_job_continues_after_a_lost_reply(worker, redis_url):
    provider = ScriptedProvider(says("a", then=BUSY), says("b"))
    async with loses_replies(redis_url) as lossy, Worker(lossy, provider) as here:
        lossy.lose = 1
        await here.run()
        events = await here.log()
    assert text_of(events) == "b"
    assert {each.attempt for each in events} == {1, 2}


async def test_emptied_server_stops_a_streaming_job_and_gets_no_partial_log(worker, redis_client):
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
        # The index may have entries again: it is advisory, and renewals heal it.
        assert await redis_client.keys("job:*") == []


@pytest.mark.server
async def test_job_streams_through_a_server_restart_without_loss():
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
