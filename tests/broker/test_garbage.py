"""Garbage on the queue: the worker runs on, and an invalid message becomes a dead letter."""

import base64
import json
import pickle
import uuid
import zlib
from typing import Any

import pytest

from berlin_worker.embedded.upstream import upstream_in_thread
from tests.support.fleet import Fleet, prompt
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

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


FORGED = "evil\n2026-11-23T00:00:00 [info     ] a forged line"
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
    "an ID that would forge a line of the log": message(headers={"id": FORGED}),
    "an eta that is none": message(headers={"eta": "soon"}),
}
CALLBACK = {"task": "t", "args": [], "kwargs": {}, "options": {"queue": "elsewhere"}}
UNUSABLE: dict[str, dict[str, Any]] = {
    "a task of another name": {"headers": {"task": "worker.unknown"}},
    # Celery's own tasks would send any task to any queue, which may be any key.
    **{
        f"Celery's task {name}": {"headers": {"task": f"celery.{name}"}, "args": args}
        for name, args in (
            ("group", [[CALLBACK], [["g", None], [[["x", None], None]]], "g", []]),
            ("starmap", [CALLBACK, [[]]]),
            ("map", [CALLBACK, [1]]),
            ("chunks", [CALLBACK, [[1]], 1]),
            ("chord", [[CALLBACK], CALLBACK]),
            ("chord_unlock", ["g", CALLBACK]),
            ("accumulate", []),
            ("backend_cleanup", []),
        )
    },
    "an eta that is none": {"headers": {"eta": "soon"}},
    "an eta that is too late": {"headers": {"eta": "9999-12-31T23:59:59.999999-12:00"}},
    "an eta that is too early": {"headers": {"eta": "0001-01-01T00:00:00+14:00"}},
    "an expiry that is none": {"headers": {"expires": "soon"}},
    "a limit that is text": {"headers": {"timelimit": ["30", None]}},
    "limits of another shape": {"headers": {"timelimit": {"hard": 30}}},
    "three limits": {"headers": {"timelimit": [1, 2, 3]}},
    "a limit that is no number": {"headers": {"timelimit": [float("nan"), None]}},
    "arguments that are none": {"args": None},
    "arguments that are a number": {"args": 5},
    "keyword arguments that are none": {"kwargs": None},
    "keyword arguments that are a list": {"kwargs": [1]},
    "a keyword argument": {"kwargs": {"a": 1}},
    "a list to follow": {"embed": [1]},
    "a callback": {"embed": {"callbacks": [CALLBACK]}},
    "a callback of a failure": {"embed": {"errbacks": [CALLBACK]}},
    "a chain": {"embed": {"chain": [CALLBACK]}},
    "a chord": {"embed": {"chord": CALLBACK}},
    "a callback in the headers": {"headers": {"callbacks": [CALLBACK]}},
    "a chain in the headers": {"headers": {"chain": [CALLBACK]}, "embed": None},
    "a limit that has passed": {"headers": {"timelimit": [-1, None]}},
    "an unknown compression": {"headers": {"compression": "application/x-other"}},
    "a compressed bomb": {"headers": {"compression": "application/x-gzip"}, "body": BOMB},
    "an unknown body encoding": {"properties": {"body_encoding": "rot13"}},
    "a body that is not base64": {"raw": {"body": "%%%"}},
    "half a surrogate pair": {"headers": {"argsrepr": "\udfff"}, "metadata": {"a": "\udfff"}},
    "no properties": {"raw": {"properties": None}},
    "no delivery tag": {"properties": {"delivery_tag": None}},
}
"""Parts of messages that have a job ID and cannot run."""


@pytest.fixture(scope="module")
def garbage_fleet(redis_server):
    with upstream_in_thread() as upstream:
        fleet = Fleet(redis_server.url.removesuffix("/0") + "/2", upstream)
        fleet.redis.flushdb()
        with fleet.worker("-c", "2", "--loglevel", "DEBUG") as worker:
            yield fleet, worker


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_becomes_a_dead_letter_and_the_next_job_runs(garbage_fleet, name):
    fleet, worker = garbage_fleet
    before = fleet.redis.xlen("worker:dead")
    item = GARBAGE[name]
    fleet.redis.lpush("prompts", item if isinstance(item, bytes) else json.dumps(item))
    assert fleet.ended(fleet.send(prompt("after the garbage")))[-1]["type"] == "completed"
    wait_until(lambda: fleet.redis.xlen("worker:dead") == before + 1, "a dead letter")
    wait_until(lambda: not fleet.redis.exists("unacked:prompts"), "nothing is left unacked")
    assert worker.process.poll() is None
    assert SECRET not in worker.log
    assert "forged" not in worker.log


@pytest.mark.parametrize("name", UNUSABLE)
def test_invalid_message_with_a_job_id_ends_its_job_as_failed(garbage_fleet, name):
    fleet, worker = garbage_fleet
    parts = UNUSABLE[name]
    job = prompt(SECRET, **({"metadata": parts["metadata"]} if "metadata" in parts else {}))
    args = parts.get("args", [job])
    body = json.dumps([args, parts.get("kwargs", {}), parts.get("embed", {})]).encode()
    item = message(
        parts.get("body", body), headers=parts.get("headers"), **parts.get("properties", {})
    )
    fleet.redis.lpush("prompts", json.dumps(item | parts.get("raw", {})))
    (event,) = fleet.ended(item["headers"]["id"])
    assert (event["type"], event["error"]["code"]) == ("failed", "invalid_job")
    wait_until(lambda: not fleet.redis.exists("unacked:prompts"), "nothing is left unacked")
    assert fleet.redis.exists("prompts", "elsewhere") == 0
    assert SECRET not in worker.log


ODD: dict[str, dict[str, Any]] = {
    "another ID": {"embed": {"id": "another"}},
    "no job ID in its place": {"embed": {"id": "../x"}},
    "a part of another type": {"embed": {"delivery_info": 7, "retries": "x"}},
    "something in the place of a method": {"embed": {"get": 7, "update": 7}},
    "methods in the headers": {"headers": {"get": 7, "update": 7, "_get_custom_headers": 7}},
    "another name": {"headers": {"shadow": FORGED}},
}
"""Parts of messages that Celery would copy into its request."""


@pytest.mark.parametrize("name", ODD)
def test_headers_of_a_message_cannot_change_its_request(garbage_fleet, name):
    fleet, worker = garbage_fleet
    body = json.dumps([[prompt("Hi")], {}, ODD[name].get("embed", {})]).encode()
    item = message(body, headers=ODD[name].get("headers"))
    fleet.redis.lpush("prompts", json.dumps(item))
    assert fleet.ended(item["headers"]["id"])[-1]["type"] == "completed"
    assert not fleet.redis.exists("job:{another}:log")
    assert "forged" not in worker.log


def test_time_limit_passed_before_the_claim_ends_the_job(garbage_fleet):
    fleet, _ = garbage_fleet
    body = json.dumps([[prompt("[[stall:1]] a b")], {}, {}]).encode()
    item = message(body, headers={"timelimit": [0.00001, None]})
    fleet.redis.lpush("prompts", json.dumps(item))
    end = fleet.ended(item["headers"]["id"])[-1]
    assert (end["type"], end["error"]["code"]) == ("failed", "deadline_exceeded")


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma"])
def test_compressed_message_runs(garbage_fleet, compression):
    fleet, _ = garbage_fleet
    sent = fleet.app.send_task(
        "worker.generate", [prompt("é\n" * 100_000)], queue="prompts", compression=compression
    )
    assert fleet.ended(sent.id)[-1]["type"] == "completed"


def test_message_of_protocol_1_or_of_another_priority_runs(garbage_fleet):
    fleet, _ = garbage_fleet
    job_id, bare_id = str(uuid.uuid4()), str(uuid.uuid4())
    job = {"task": "worker.generate", "id": job_id, "args": [prompt("old")], "kwargs": {}}
    body = json.dumps(job)
    old = message(body.encode())
    old["headers"] = {}
    fleet.redis.lpush("prompts", json.dumps(old))
    assert fleet.ended(job_id)[-1]["type"] == "completed"

    bare = without(message(body.replace(job_id, bare_id).encode()), "headers")  # as gocelery's
    fleet.redis.lpush("prompts", json.dumps(bare))
    assert fleet.ended(bare_id)[-1]["type"] == "completed"

    urgent = fleet.app.send_task("worker.generate", [prompt("x")], queue="prompts", priority=6)
    assert fleet.ended(urgent.id)[-1]["type"] == "completed"
