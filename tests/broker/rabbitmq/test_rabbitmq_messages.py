"""Garbage, remote control, revokes and purges on RabbitMQ."""

import json
import pickle
import uuid
import zlib
from typing import Any

import pytest

from berlin_schemas import InvalidJob, names
from berlin_worker.client import Client
from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.embedded.stand_in import in_thread
from berlin_worker.settings import Settings
from tests.support.celery_cli import run_command
from tests.support.fleet import QUICK_LEASES, prompt
from tests.support.large_jobs import LARGEST, image_job
from tests.support.rabbitmq import MAX_MESSAGE_BYTES
from tests.support.rabbitmq_queue import messages
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

SECRET = "a secret prompt"


def garbage(body: bytes, headers: Any = None, **properties: Any) -> dict[str, Any]:
    celery_headers = {"lang": "py", "task": "worker.generate", "id": str(uuid.uuid4())}
    return {
        "body": body,
        "headers": celery_headers | (headers or {}),
        "content_type": "application/json",
        "content_encoding": "utf-8",
        **properties,
    }


BODY = b"[[], {}, {}]"


def all_garbage() -> dict[str, dict[str, Any]]:
    """Messages by what is wrong with them. The bomb takes half a second: not at each import."""
    return {
        "not JSON": garbage(b"{" + SECRET.encode()),
        "not UTF-8": garbage(b"\xff\xfe" + SECRET.encode()),
        "nested without end": garbage(b"[" * 100_000),
        "empty": garbage(b""),
        "another shape": garbage(json.dumps({"a": SECRET}).encode()),
        "two parts": garbage(json.dumps([[SECRET], {}]).encode()),
        "no headers at all": {"body": SECRET.encode()},
        "bytes of no kind": {
            "body": b"\x00\x01" + SECRET.encode(),
            "content_type": "application/data",
        },
        "pickle": garbage(
            pickle.dumps([[], {}, {}]), content_type="application/x-python-serialize"
        ),
        "yaml": garbage(b"- []", content_type="application/x-yaml"),
        "msgpack": garbage(b"\x93\x90\x80\x80", content_type="application/x-msgpack"),
        "a compressed bomb": garbage(
            zlib.compress(b" " * 50_000_000), headers={"compression": "application/x-gzip"}
        ),
        "compressed by nothing known": garbage(BODY, headers={"compression": "rot13"}),
        "a property that is no UTF-8": garbage(BODY, content_type=b"\xff" + SECRET.encode()),
        "an unknown task": garbage(BODY, headers={"task": "worker.unknown"}),
        "a task of no type": garbage(BODY, headers={"task": ["x"]}),
        "an ID that is no job ID": garbage(BODY, headers={"id": "../*"}),
        "an eta that is none": garbage(BODY, headers={"eta": "soon"}),
        "an expiry that is none": garbage(BODY, headers={"expires": "soon"}),
    }


def test_garbage_becomes_a_dead_letter_and_does_not_loop(fleet, broker):
    publish, garbages = broker.default_channel, all_garbage()
    with fleet.worker("-c", "2", "--loglevel", "DEBUG") as worker:
        for count, (name, item) in enumerate(garbages.items(), 1):
            publish.basic_publish(publish.prepare_message(**item), routing_key="prompts")
            wait_until(lambda n=count: fleet.redis.xlen("worker:dead") >= n, f"dead letter: {name}")
        assert fleet.ended(fleet.send(prompt("after all")))[-1]["type"] == "completed"
        assert worker.stop() == 0
    assert SECRET not in worker.log
    letters = [fields for _, fields in fleet.redis.xrange("worker:dead")]
    assert len(letters) == len(garbages)
    # No bomb was decompressed: its dead letter holds the message as it came.
    assert max(len(letter[b"message"]) for letter in letters) <= 100_000
    assert messages(broker) == 0


BROADCASTS = [
    b"",
    b"null",
    b"[]",
    b"7",
    b'"x"',
    b"\xff",
    b"[" * 100_000,
    b'{"method": {}}',
    b'{"method": "none such"}',
    b'{"method": "ping", "arguments": [1]}',
    b'{"method": "ping", "arguments": {"a": 1}}',
    b'{"method": "ping", "reply_to": {"exchange": "", "routing_key": "prompts"}}',
    b'{"method": "hello", "arguments": {"from_node": "x", "revoked": {"a": "soon"}}}',
    b'{"type": "worker-heartbeat", "hostname": "w@h", "timestamp": "now", "clock": {}}',
    b'{"type": "worker-elect", "hostname": "w@h", "timestamp": 1, "clock": 1e400}',
]


def test_invalid_commands_and_events_are_dropped_and_the_next_command_is_answered(fleet, broker):
    with fleet.worker("-c", "2", alone=False) as worker:
        wait_until(lambda: fleet.app.control.ping([worker.hostname], timeout=5, limit=1), "a pong")
        producer = broker.Producer(auto_declare=False)
        for body in BROADCASTS:
            channel = broker.default_channel
            sent = channel.prepare_message(body, content_type=b"\xff", headers={"clock": 1})
            channel.basic_publish(sent, exchange="celery.pidbox", routing_key=b"\xff\xfe")
        for exchange, key in (("celery.pidbox", ""), ("celeryev", "worker.heartbeat")):
            for body in BROADCASTS:
                for headers in ({"clock": "x"}, {"hostname": ["x"]}, {"compression": "x"}):
                    for kind in ("application/json", "application/x-python-serialize", "x"):
                        producer.publish(
                            body,
                            exchange=exchange,
                            routing_key=key,
                            headers=headers,
                            content_type=kind,
                            content_encoding="utf-8",
                        )
        assert fleet.ended(fleet.send(prompt("next")))[-1]["type"] == "completed"
        wait_until(lambda: fleet.app.control.ping([worker.hostname], timeout=5, limit=1), "a pong")
        assert worker.process.poll() is None
        assert "Connection to broker lost" not in worker.log
        assert worker.stop() == 0  # what is acknowledged has reached the broker
    assert messages(broker) == 0
    assert not fleet.redis.exists("worker:dead")


def test_revoke_flags_what_waits_ends_what_runs_and_holds_after_a_restart(fleet, broker):
    endless = "[[endless]] [[delay:0.05]] a"
    with fleet.worker("-c", "2") as worker:
        wait_until(lambda: fleet.app.control.ping([worker.hostname], timeout=5, limit=1), "a pong")
        running, spared = (fleet.send(prompt(endless)) for _ in range(2))
        for job_id in (running, spared):
            fleet.running(job_id)
        later = [str(uuid.uuid4()) for _ in range(2)]
        waiting = fleet.send(prompt("waits"))
        fleet.app.control.revoke([spared, waiting, later[0], "../x"])
        fleet.app.control.revoke([running, later[1]], terminate=True)
        assert fleet.ended(running)[-1]["reason"] == "revoked"
        # Its slot is free, so the broker delivers what was revoked while it waited.
        assert [each["reason"] for each in fleet.ended(waiting)] == ["revoked"]
        for job_id in later:
            key = f"job:{{{job_id}}}:state"
            wait_until(lambda key=key: fleet.redis.hget(key, "cancel"), "the flag")
        assert fleet.events(spared)[-1]["type"] == "chunk"
        worker.kill()
    for job_id in later:
        fleet.send(prompt("too late"), task_id=job_id)
    with fleet.worker("-c", "4", **QUICK_LEASES) as worker:  # it has received no revoke
        for job_id in later:
            assert [each["reason"] for each in fleet.ended(job_id)] == ["revoked"]
        wait_until(lambda: fleet.attempt(spared) == 2, "restarted")
        fleet.app.control.revoke(spared, terminate=True)
        assert fleet.ended(spared)[-1]["reason"] == "revoked"
        assert worker.stop() == 0
    assert messages(broker) == 0
    assert not any("waits" in each or "too late" in each for each in fleet.upstream.prompts)


def test_purge_ends_waiting_jobs_on_rabbitmq(fleet, broker):
    _, text = run_command(["purge", "-f"], fleet.env)
    assert "No messages purged" in text  # and there is no queue yet
    waiting = [fleet.send(prompt(f"bare {n}")) for n in range(60)]
    record = {"status": "queued", "job": json.dumps(prompt("recorded")), "created_ms": 1}
    fleet.redis.hset(f"job:{{{waiting[0]}}}:state", mapping=record)
    fleet.redis.zadd(names.due_key(waiting[0]), {waiting[0]: 1})
    channel, garbages = broker.default_channel, all_garbage().values()
    for item in garbages:
        channel.basic_publish(channel.prepare_message(**item), routing_key="prompts")
    # The queue is there, the event store is not.
    code, text = run_command(["purge", "-f"], fleet.env | {"REDIS_URL": "redis://127.0.0.1:1/0"})
    assert code == 1
    assert "what is left is still on the queue" in text
    assert "Traceback" not in text
    _, text = run_command(["purge", "-f"], fleet.env)
    assert f"Ended the jobs of {60 + len(garbages)} messages" in text
    assert messages(broker) == 0
    for job_id in waiting:
        assert [each["reason"] for each in fleet.events(job_id)] == ["purged"]
    assert not fleet.redis.exists(*names.DUE_KEYS)


def test_message_beyond_the_limit_of_rabbitmq_leaves_neither_job_nor_connection_behind(fleet):
    env = fleet.env | LARGEST
    with in_thread(OpenAIUpstream()) as upstream, fleet.worker(**upstream.environ, **LARGEST):
        large = image_job(MAX_MESSAGE_BYTES - 4096)
        assert fleet.ended(fleet.send(large))[-1]["type"] == "completed"
        with Client(settings=Settings.from_env(env)) as client:
            # In another script a smaller job is the longer message: ASCII JSON.
            for job in (image_job(MAX_MESSAGE_BYTES), image_job(12 << 20, "é" * (4 << 20))):
                with pytest.raises(InvalidJob, match="max_message_size"):
                    client.submit(job, job_id="large")
                assert client.status("large").status == "unknown"
            assert client.result(client.submit(large), 60).text
        assert len(upstream.calls) == 2
