"""Submitting: the record in Redis and the message on the queue."""

import asyncio
import json

import pytest

from berlin_schemas import InvalidJob, PromptJob, names
from berlin_worker.client import AsyncClient
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.settings import Settings
from tests.support.client_helpers import QUICK
from tests.support.job_writer import JobWriter
from tests.support.queue_messages import keys_left, queue

pytestmark = pytest.mark.contract


async def test_submitted_job_has_a_record_and_a_message_with_its_id(client, redis_client):
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


async def test_prompt_is_in_no_header(client, redis_client):
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
async def test_prompt_is_accepted_in_several_shapes(client, redis_client, prompt):
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
async def test_invalid_job_is_refused_before_anything_is_sent(
    client, redis_client, call, prompt, fields
):
    with pytest.raises(InvalidJob):
        await getattr(client, call)(prompt, **fields)
    assert await keys_left(redis_client) == set()


async def test_submitting_a_queued_job_again_replaces_a_lost_message(client, redis_client):
    await client.submit("Hello", job_id="mine")
    await redis_client.delete(names.QUEUE)  # or the submitter died before it had sent it
    assert await client.submit("Hello", job_id="mine") == "mine"
    (message,) = await queue(redis_client)
    assert message["headers"]["id"] == "mine"


@pytest.mark.parametrize("status", ["running", "completed", "failed", "cancelled"])
async def test_submitting_a_started_job_again_sends_nothing(client, redis_client, status):
    state = names.state_key("mine")
    await redis_client.hset(state, mapping={"status": status, "attempt": 1})
    await redis_client.expire(state, 60)
    assert await client.submit("Hello", job_id="mine") == "mine"
    assert await queue(redis_client) == []


async def test_hundred_concurrent_submissions_are_accepted(client, redis_client):
    ids = await asyncio.gather(*(client.submit(f"{n}") for n in range(100)))
    assert {message["headers"]["id"] for message in await queue(redis_client)} == set(ids)


async def test_broker_argument_takes_precedence_over_the_environment(
    redis_url, redis_client, monkeypatch
):
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    monkeypatch.setenv("CELERY_BROKER_URL", nowhere)
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", nowhere)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", nowhere)
    async with AsyncClient(redis_url, redis_url, settings=Settings(), options=QUICK) as client:
        await client.submit("Hello")
    assert len(await queue(redis_client)) == 1


async def test_submit_and_stream_subscribes_before_a_worker_can_publish(client, redis_client):
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


async def test_submit_and_stream_replays_a_job_that_has_run(client, redis_client):
    await client.submit("Hello", job_id="mine")
    await JobWriter(redis_client, "mine").whole("a")
    stream = client.submit_and_stream("Hello", job_id="mine")
    assert [event.seq async for event in stream] == [1, 2, 3]
    assert len(await queue(redis_client)) == 1


async def test_cancelled_submission_leaves_no_partial_job(client, redis_client):
    submitting = asyncio.create_task(client.submit("Hello", job_id="mine"))
    await asyncio.sleep(0)  # it has begun
    submitting.cancel()
    await asyncio.wait([submitting])
    await client.aclose()  # waits for what was under way
    assert len(await queue(redis_client)) == 1
