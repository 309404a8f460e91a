"""Servers that the client must survive or report: small buffers, no push, restarts, data loss."""

import asyncio

import pytest
import redis.asyncio

from berlin_worker.client import CursorExpired, Unavailable
from tests.support.client_helpers import make_client, open_connections, seqs, wait_for_channels
from tests.support.job_writer import JobWriter
from tests.support.own_server import own_server

pytestmark = pytest.mark.contract


async def test_pages_beyond_the_output_buffer_limit_are_read_in_parts():
    """A page beyond the limit ends the connection each time that it is requested."""
    with own_server(**{"client-output-buffer-limit": "pubsub 600kb 0 0"}) as process:
        async with (
            redis.asyncio.Redis.from_url(process.url) as server,
            make_client(process.url) as client,
        ):
            writer = JobWriter(server, "job-1")
            await writer.started()
            for _ in range(40):
                await writer.chunk("x" * 300_000)
            await writer.completed()
            assert await asyncio.wait_for(seqs(client.stream("job-1")), 60) == list(range(1, 43))


async def test_server_without_push_messages_is_read_over_a_separate_connection():
    with own_server(**{"rename-command": ("HELLO", "")}) as process:
        async with (
            redis.asyncio.Redis.from_url(process.url, protocol=2) as server,
            make_client(process.url) as client,
        ):
            writer = JobWriter(server, "job-1")
            await writer.started()
            before = await open_connections(server)
            stream = client.stream("job-1")
            assert (await anext(stream)).seq == 1
            assert len(await open_connections(server) - before) == 2
            await writer.chunk("a")
            await writer.completed()
            assert await asyncio.wait_for(seqs(stream), 60) == [2, 3]


async def test_readers_survive_a_restart_of_a_persistent_server():
    with own_server(appendonly="yes", appendfsync="always") as server_process:
        async with (
            redis.asyncio.Redis.from_url(server_process.url) as server,
            make_client(server_process.url, reread_after_s=0.3) as client,
        ):
            writer = JobWriter(server, "job-1")
            await writer.started()
            await writer.chunk("a")
            reading = asyncio.create_task(seqs(client.stream("job-1")))
            await wait_for_channels(server, 1)
            server_process.kill()
            await asyncio.to_thread(server_process.start)
            await server.connection_pool.disconnect()  # a worker, too, would connect again
            await writer.chunk("b")
            await writer.completed()
            assert await asyncio.wait_for(reading, 60) == [1, 2, 3, 4]


async def test_server_that_has_lost_its_data_is_an_error():
    with own_server() as process:
        async with (
            redis.asyncio.Redis.from_url(process.url) as server,
            make_client(process.url, reread_after_s=0.3) as client,
        ):
            await JobWriter(server, "job-1").started()
            stream = client.stream("job-1")
            await anext(stream)
            process.kill()
            await asyncio.to_thread(process.start)
            with pytest.raises(CursorExpired):
                await asyncio.wait_for(seqs(stream), 60)


async def test_reader_of_an_unavailable_server_gives_up():
    with own_server(appendonly="yes", appendfsync="always") as process:
        async with (
            redis.asyncio.Redis.from_url(process.url) as server,
            make_client(process.url, reread_after_s=0.1, give_up_after_s=0.5) as client,
        ):
            await JobWriter(server, "job-1").started()
            stream = client.stream("job-1")
            await anext(stream)
            process.kill()
            with pytest.raises(Unavailable, match="after seq 1"):
                await asyncio.wait_for(seqs(stream), 60)


async def test_wrong_password_is_an_immediate_error():
    with own_server() as process:
        async with redis.asyncio.Redis.from_url(process.url) as server:
            await server.config_set("requirepass", "right")
        async with make_client(
            f"redis://:hunter2@127.0.0.1:{process.port}/0", give_up_after_s=3600
        ) as client:
            with pytest.raises(Unavailable) as caught:
                await asyncio.wait_for(seqs(client.stream("job-1")), 60)
            assert "hunter2" not in str(caught.value)
