"""Submitting while the broker or Redis fails: what remains, and the error message."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
import redis.asyncio

from berlin_schemas import names
from berlin_worker.client import AsyncClient, Unavailable
from berlin_worker.client import enqueue as enqueue_module
from berlin_worker.client.enqueue import Enqueuer, MaybeSent, NotSent
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.settings import Settings
from tests.support.client_helpers import QUICK
from tests.support.job_writer import JobWriter
from tests.support.own_server import own_server
from tests.support.queue_messages import keys_left, queue

pytestmark = pytest.mark.contract


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


async def test_refusal_of_the_broker_leaves_no_job(redis_url, redis_client):
    broker = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    async with AsyncClient(redis_url, broker, settings=Settings(), options=QUICK) as client:
        with pytest.raises(Unavailable, match="not accepted") as caught:
            await client.submit("Hello", job_id="mine")
        assert "hunter2" not in str(caught.value)
        assert (await client.status("mine")).status == "unknown"
    assert set(await redis_client.hkeys(names.state_key("mine"))) == {b"cancel"}
    assert await redis_client.ttl(names.state_key("mine")) > 0


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
async def test_silent_broker_ends_in_a_timeout(
    redis_url, redis_client, black_hole, monkeypatch, scheme
):
    monkeypatch.setattr(enqueue_module, "_SOCKET_TIMEOUT_S", 0.5)
    monkeypatch.setitem(enqueue_module._TRANSPORT_OPTIONS, "socket_timeout", 0.5)
    broker = f"{scheme}://user:hunter2@127.0.0.1:{black_hole}/"
    async with AsyncClient(redis_url, broker, settings=Settings(), options=QUICK) as client:
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(client.submit("Hi") for _ in range(300)), return_exceptions=True), 60
        )
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert not any("hunter2" in str(outcome) for outcome in outcomes)
    async with AsyncClient(redis_url, settings=Settings()) as client:
        assert await client.list() == []


async def test_undone_submission_can_be_repeated(redis_url, redis_client):
    broker = f"redis://127.0.0.1:{free_port()}/0"
    async with AsyncClient(redis_url, broker, settings=Settings(), options=QUICK) as client:
        with pytest.raises(Unavailable):
            await client.submit("Hello", job_id="mine")
    assert await redis_client.hget(names.state_key("mine"), "cancel") == b"1"
    async with AsyncClient(redis_url, settings=Settings(), options=QUICK) as client:
        await client.submit("Hello", job_id="mine")
        assert not (await client.status("mine")).cancel_requested
    assert len(await queue(redis_client)) == 1


async def test_submission_of_a_claimed_job_is_not_undone(client, redis_client, monkeypatch):
    """The message arrived, only its confirmation did not."""

    async def sent_but_not_confirmed(self, job_id, job, *, timeout_s):
        await JobWriter(redis_client, job_id).started()
        raise MaybeSent("the broker went away")

    monkeypatch.setattr(Enqueuer, "enqueue", sent_but_not_confirmed)
    assert await client.submit("Hello", job_id="mine") == "mine"
    assert (await client.status("mine")).status == "running"


@pytest.mark.parametrize("both", [False, True], ids=["one fails", "both fail"])
async def test_failed_submission_does_not_undo_a_concurrent_one(
    redis_url, redis_client, monkeypatch, both
):
    async with (
        AsyncClient(redis_url, settings=Settings(), options=QUICK) as first,
        AsyncClient(redis_url, settings=Settings(), options=QUICK) as second,
    ):
        written, go = asyncio.Event(), asyncio.Event()
        enqueue = Enqueuer.enqueue

        async def enqueues(self, job_id, job, *, timeout_s):
            if not written.is_set():
                written.set()
                await go.wait()
            elif not both:
                return await enqueue(self, job_id, job, timeout_s=timeout_s)
            raise NotSent("the broker went away")

        monkeypatch.setattr(Enqueuer, "enqueue", enqueues)
        failing = asyncio.create_task(first.submit("Hello", job_id="mine"))
        await written.wait()
        if both:
            with pytest.raises(Unavailable, match="may still run"):
                await second.submit("Hello", job_id="mine")
        else:
            await second.submit("Hello", job_id="mine")
        go.set()
        with pytest.raises(Unavailable, match="may still run"):
            await failing
        status = await second.status("mine")
        assert (status.status, status.cancel_requested) == ("queued", False)
    assert len(await queue(redis_client)) == (not both)
    # If no message has arrived, the workers find that out.
    assert await redis_client.zscore(names.due_key("mine"), "mine") is not None


async def test_lost_record_is_not_taken_for_a_claim(client, redis_client, monkeypatch):
    """A server that keeps nothing was restarted in between."""

    async def forgotten(self, job_id, job, *, timeout_s):
        await redis_client.flushall()
        raise MaybeSent("the broker went away")

    monkeypatch.setattr(Enqueuer, "enqueue", forgotten)
    with pytest.raises(Unavailable, match="not accepted"):
        await client.submit("Hello", job_id="mine")
    assert (await client.status("mine")).cancel_requested


async def test_error_names_a_record_that_could_not_be_undone(redis_url, redis_client, monkeypatch):
    async with AsyncClient(redis_url, settings=Settings(), options=QUICK) as client:

        async def gone(self, job_id, job, *, timeout_s):
            async def down(keys, args):
                raise redis.exceptions.ConnectionError("down")

            monkeypatch.setattr(client._store.submitter, "_undo_record", down)
            raise MaybeSent("the broker went away")

        monkeypatch.setattr(Enqueuer, "enqueue", gone)
        with pytest.raises(Unavailable, match="job mine may still run"):
            await client.submit("Hello", job_id="mine")


async def test_lost_reply_to_the_record_does_not_lose_the_message(client, redis_client):
    """The first call wrote the record; its repetition finds a job submitted before."""
    write, calls = client._store.submitter._write_record, []

    async def reply_lost_once(keys, args):
        calls.append(keys)
        reply = await write(keys, args)
        if len(calls) == 1:
            raise redis.exceptions.ConnectionError("reply lost")
        return reply

    client._store.submitter._write_record = reply_lost_once
    await client.submit("Hello", job_id="mine")
    assert len(await queue(redis_client)) == 1


async def test_submission_works_after_a_restart_of_the_broker():
    with own_server() as server:
        async with AsyncClient(server.url, settings=Settings(), options=QUICK) as client:
            await client.submit("Hello")
            server.kill()
            with pytest.raises(Unavailable):
                await client.submit("Hello")
            server.start()
            await client.submit("Hello")
            server.kill()
            server.start()  # the idle connections are dead, which the client has not noticed
            await client.submit("Hello")
        async with redis.asyncio.Redis.from_url(server.url) as inspector:
            assert len(await queue(inspector)) == 1


async def test_server_without_free_memory_refuses_the_job_and_keeps_no_part():
    with own_server() as server:
        async with (
            AsyncClient(server.url, settings=Settings(), options=QUICK) as client,
            redis.asyncio.Redis.from_url(server.url) as inspector,
        ):
            await inspector.config_set("maxmemory", 1)
            with pytest.raises(Unavailable, match=r"not accepted: .*memory"):
                await client.submit("Hello", job_id="mine")
            assert await keys_left(inspector) == set()


async def test_wrong_password_is_an_immediate_error_and_no_job_may_run():
    with own_server() as server:
        async with redis.asyncio.Redis.from_url(server.url) as inspector:
            await inspector.config_set("requirepass", "right")
        url = f"redis://:hunter2@127.0.0.1:{server.port}/0"
        async with AsyncClient(url, settings=Settings(), options=QUICK) as client:
            with pytest.raises(Unavailable, match="not accepted") as caught:
                await client.submit("Hello")
            assert "hunter2" not in str(caught.value)
