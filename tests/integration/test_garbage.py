"""Anything may stand on the queue: the worker lives, and what cannot run is in the dead letters."""

import base64
import json
import pickle
import uuid
import zlib
from typing import Any

import pytest

from tests.support.fleet import Fleet, prompt
from tests.support.workers import wait_until
from worker.embedded.upstream import upstream_in_thread

SECRET = "a secret prompt"


def message(
    body: bytes = b"[[], {}, {}]",
    *,
    content_type: str = "application/json",
    content_encoding: str = "utf-8",
    headers: Any = None,
    **properties: Any,
) -> dict[str, Any]:
    job_id = str(uuid.uuid4())
    return {
        "body": base64.b64encode(body).decode(),
        "content-type": content_type,
        "content-encoding": content_encoding,
        "headers": {"lang": "py", "task": "worker.generate", "id": job_id} | (headers or {}),
        "properties": {
            "correlation_id": job_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "prompts"},
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
            **properties,
        },
    }


def without(taken: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = taken
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return taken


BOMB = zlib.compress(b" " * 50_000_000)
GARBAGE: dict[str, bytes | dict[str, Any] | list[Any]] = {
    "not JSON": b"\xff\xfenot JSON " + SECRET.encode(),
    "empty": b"",
    "no object": ["a", "list"],
    "a number": b"7",
    "nested without end": b"[" * 100_000,
    "no headers": without(message(), "headers"),
    "no properties": without(message(), "properties"),
    "no delivery info": without(message(), "properties", "delivery_info"),
    "no delivery tag": without(message(), "properties", "delivery_tag"),
    "no body": without(message(), "body"),
    "no task, no protocol": message(b"{}", headers={"task": None}),
    "a task of no type": message(headers={"task": ["x"]}),
    "an unknown body encoding": message(body_encoding="rot13"),
    "a body that is not base64": {**message(), "body": "%%%"},
    "a body that is not JSON": message(b"{" + SECRET.encode()),
    "a body of another shape": message(b'{"a": "' + SECRET.encode() + b'"}'),
    "a body of two parts": message(b'[["' + SECRET.encode() + b'"], {}]'),
    "pickle": message(pickle.dumps([[], {}, {}]), content_type="application/x-python-serialize"),
    "yaml": message(b"- []", content_type="application/x-yaml"),
    "msgpack": message(b"\x93\x90\x80\x80", content_type="application/x-msgpack"),
    "a compressed bomb": message(BOMB, headers={"compression": "application/x-gzip"}),
    "an ID that is no job ID": message(headers={"id": "../*"}),
    "an ID that is a number": message(headers={"id": 7}),
    "an eta that is none": message(headers={"eta": "soon"}),
}


@pytest.fixture(scope="module")
def garbage_fleet(redis_server):
    with upstream_in_thread() as upstream:
        fleet = Fleet(redis_server.url.removesuffix("/0") + "/2", upstream)
        with fleet.worker("-c", "2", "--loglevel", "DEBUG") as worker:
            yield fleet, worker


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_buried_and_the_next_job_runs(garbage_fleet, name):
    fleet, worker = garbage_fleet
    buried = fleet.redis.xlen("worker:dead")
    item = GARBAGE[name]
    fleet.redis.lpush("prompts", item if isinstance(item, bytes) else json.dumps(item))
    assert fleet.ended(fleet.send(prompt("after the garbage")))[-1]["type"] == "completed"
    wait_until(lambda: fleet.redis.xlen("worker:dead") == buried + 1, "a dead letter")
    wait_until(lambda: not fleet.redis.exists("unacked:prompts"), "nothing is left unacked")
    assert worker.process.poll() is None
    assert SECRET not in worker.log


@pytest.mark.parametrize(
    "headers", [{"task": "worker.unknown"}, {"eta": "soon"}], ids=["unknown task", "bad eta"]
)
def test_what_cannot_run_but_has_a_job_id_ends_as_failed_for_its_reader(garbage_fleet, headers):
    fleet, _ = garbage_fleet
    item = message(json.dumps([[prompt(SECRET)], {}, {}]).encode(), headers=headers)
    fleet.redis.lpush("prompts", json.dumps(item))
    (event,) = fleet.ended(item["headers"]["id"])
    assert (event["type"], event["error"]["code"]) == ("failed", "invalid_job")


def test_a_message_of_protocol_1_or_of_another_priority_runs(garbage_fleet):
    fleet, _ = garbage_fleet
    job_id = str(uuid.uuid4())
    body = {"task": "worker.generate", "id": job_id, "args": [prompt("old")], "kwargs": {}}
    old = message(json.dumps(body).encode())
    old["headers"] = {}
    fleet.redis.lpush("prompts", json.dumps(old))
    assert fleet.ended(job_id)[-1]["type"] == "completed"

    urgent = fleet.app.send_task("worker.generate", [prompt("x")], queue="prompts", priority=6)
    assert fleet.ended(urgent.id)[-1]["type"] == "completed"
