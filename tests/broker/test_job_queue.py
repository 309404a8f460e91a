"""The doorbell: what it puts into the broker, and what it says of one that is away."""

import base64
import contextlib
import json

import pytest
import redis.exceptions
from celery import Celery

from berlin_schemas import names
from berlin_worker.broker.job_queue import CeleryJobQueue
from berlin_worker.embedded.redis_server import free_port

pytestmark = pytest.mark.contract

SECRET = "the prompt that nobody else may read"
JOB = {"messages": [{"role": "user", "content": SECRET}]}


@pytest.fixture
def bell(redis_url):
    with bell_of(redis_url) as bell:
        yield bell


@contextlib.contextmanager
def bell_of(url, **conf):
    app = Celery("test", broker=url, set_as_current=False)
    app.conf.update(conf)
    app.conf.broker_connection_timeout = 2
    app.conf.broker_transport_options = {"socket_connect_timeout": 2}
    with contextlib.closing(CeleryJobQueue(app)) as bell:
        yield bell
    app.close()


async def test_the_message_is_one_that_a_worker_takes_and_hides_the_prompt_from_its_headers(
    bell, redis_client
):
    await bell.ring("job-1", json.dumps(JOB).encode())
    [raw] = await redis_client.lrange(names.QUEUE, 0, -1)
    message = json.loads(raw)
    headers = message["headers"]
    assert headers["id"] == message["properties"]["correlation_id"] == "job-1"
    assert headers["task"] == names.TASK
    assert headers["argsrepr"] == "<hidden>"
    assert SECRET not in json.dumps(headers)
    assert message["content-type"] == "application/json"
    assert message["properties"]["delivery_info"]["routing_key"] == names.QUEUE
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([JOB], {})


async def test_the_message_continues_the_trace_that_the_record_tells_of(bell, redis_client):
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await bell.ring("job-1", b"{}", json.dumps({"traceparent": traceparent}).encode())
    await bell.ring("job-2", b"{}", b"whatever stands there")
    headers = [json.loads(raw)["headers"] for raw in await redis_client.lrange(names.QUEUE, 0, -1)]
    traced = {each["id"]: each.get("traceparent") for each in headers}
    assert traced == {"job-1": traceparent, "job-2": None}


async def test_what_waits_is_counted_and_a_queue_that_is_not_there_is_empty(bell):
    assert await bell.waiting() == 0
    for n in range(3):
        await bell.ring(f"job-{n}", b"{}")
    assert await bell.waiting() == 3


async def test_a_broker_that_is_away_is_the_builtin_connection_error():
    with bell_of(f"redis://127.0.0.1:{free_port()}/0") as bell:
        with pytest.raises(ConnectionError):
            await bell.ring("job-1", b"{}")
        with pytest.raises(ConnectionError):
            await bell.waiting()


@pytest.mark.parametrize("error", [redis.exceptions.TimeoutError, redis.exceptions.ResponseError])
async def test_a_broker_that_breaks_off_while_counting_is_too(bell, monkeypatch, error):
    def break_off(self, queue, **_):
        raise error("gone")

    monkeypatch.setattr("kombu.transport.redis.Channel._has_queue", break_off)
    with pytest.raises(ConnectionError, match="gone"):
        await bell.waiting()


async def test_it_goes_before_all_others_where_the_transport_is_ours(redis_url, redis_client):
    with bell_of(
        redis_url, broker_transport="berlin_worker.broker.transport:RedisTransport"
    ) as bell:
        await redis_client.lpush(names.QUEUE, "waits")
        await bell.ring("job-1", json.dumps(JOB).encode())
    [behind, first] = await redis_client.lrange(names.QUEUE, 0, -1)
    assert behind == b"waits"
    assert json.loads(first)["headers"]["id"] == "job-1"
