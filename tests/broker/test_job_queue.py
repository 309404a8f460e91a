"""The job queue of a Celery app: the messages that it sends, and errors of the broker."""

import base64
import contextlib
import json

import amqp.exceptions
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
def job_queue(redis_url):
    with job_queue_of(redis_url) as job_queue:
        yield job_queue


@contextlib.contextmanager
def job_queue_of(url, **conf):
    app = Celery("test", broker=url, set_as_current=False)
    app.conf.update(conf)
    app.conf.broker_connection_timeout = 2
    app.conf.broker_transport_options = {"socket_connect_timeout": 2}
    with contextlib.closing(CeleryJobQueue(app)) as job_queue:
        yield job_queue
    app.close()


async def test_requeued_message_can_run_and_its_headers_hide_the_prompt(job_queue, redis_client):
    await job_queue.requeue("job-1", json.dumps(JOB).encode())
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


async def test_message_continues_the_trace_in_the_record(job_queue, redis_client):
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await job_queue.requeue("job-1", b"{}", json.dumps({"traceparent": traceparent}).encode())
    await job_queue.requeue("job-2", b"{}", b"whatever stands there")
    headers = [json.loads(raw)["headers"] for raw in await redis_client.lrange(names.QUEUE, 0, -1)]
    traced = {each["id"]: each.get("traceparent") for each in headers}
    assert traced == {"job-1": traceparent, "job-2": None}


async def test_depth_is_the_number_of_waiting_messages_and_0_for_a_missing_queue(job_queue):
    assert await job_queue.depth() == 0
    for n in range(3):
        await job_queue.requeue(f"job-{n}", b"{}")
    assert await job_queue.depth() == 3


async def test_unreachable_broker_raises_the_builtin_connection_error():
    with job_queue_of(f"redis://127.0.0.1:{free_port()}/0") as job_queue:
        with pytest.raises(ConnectionError):
            await job_queue.requeue("job-1", b"{}")
        with pytest.raises(ConnectionError):
            await job_queue.depth()


async def test_refusal_of_an_earlier_message_by_rabbitmq_is_no_fault_of_the_next_job(
    job_queue, monkeypatch
):
    def refuse(*_, **__):
        raise amqp.exceptions.PreconditionFailed("message size 9 is larger than 8")

    monkeypatch.setattr(Celery, "send_task", refuse)
    with pytest.raises(ConnectionError, match="message size"):
        await job_queue.requeue("job-1", b"{}")


@pytest.mark.parametrize("error", [redis.exceptions.TimeoutError, redis.exceptions.ResponseError])
async def test_failed_count_raises_the_builtin_connection_error(job_queue, monkeypatch, error):
    def break_off(self, queue, **_):
        raise error("gone")

    monkeypatch.setattr("kombu.transport.redis.Channel._has_queue", break_off)
    with pytest.raises(ConnectionError, match="gone"):
        await job_queue.depth()


async def test_requeued_message_is_first_on_our_transport(redis_url, redis_client):
    with job_queue_of(
        redis_url, broker_transport="berlin_worker.broker.transport:RedisTransport"
    ) as job_queue:
        await redis_client.lpush(names.QUEUE, "waits")
        await job_queue.requeue("job-1", json.dumps(JOB).encode())
    [behind, first] = await redis_client.lrange(names.QUEUE, 0, -1)
    assert behind == b"waits"
    assert json.loads(first)["headers"]["id"] == "job-1"
