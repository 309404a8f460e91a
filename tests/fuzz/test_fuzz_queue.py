"""Garbage on the queue and on Celery's channels, beside a worker: it serves the next job.

``BERLIN_FUZZ_ITEMS`` is how many items there are of each kind, 300 by default.
"""

import json
import os

import pytest
from celery.worker.control import Panel
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from berlin_worker.embedded.upstream import upstream_in_thread
from tests.support.fleet import Fleet, prompt
from tests.support.garbage import anything, broadcast, broadcasts, changed, messages, task
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

_IN_A_BATCH = 20
_BATCHES = int(os.environ.get("BERLIN_FUZZ_ITEMS", "300")) // _IN_A_BATCH
fuzzed = settings(
    max_examples=_BATCHES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    # No shrinking: each smaller batch would wait for a worker that is dead.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


@pytest.fixture(scope="module")
def living(redis_server):
    """Yield a fleet with an empty queue, and a worker with all of Celery's channels."""
    with upstream_in_thread() as upstream:
        fleet = Fleet(redis_server.url.removesuffix("/0") + "/3", upstream)
        fleet.redis.flushdb()
        with fleet.worker("-c", "50", alone=False) as worker:
            yield fleet, worker


def serves(living) -> None:
    """Wait until the queue is empty, a job has been served, and remote control has answered."""
    fleet, worker = living
    assert fleet.ended(fleet.send(prompt("next")))[-1]["type"] == "completed"
    wait_until(lambda: not fleet.redis.exists("prompts", "unacked:prompts"), "all worked off")
    assert worker.process.poll() is None
    wait_until(lambda: fleet.app.control.ping([worker.hostname], timeout=5, limit=1), "a pong")


@fuzzed
@given(st.lists(messages, min_size=_IN_A_BATCH, max_size=_IN_A_BATCH))
def test_anything_on_the_queue_leaves_a_worker_that_serves_the_next_job(living, batch):
    fleet, _ = living
    fleet.redis.lpush("prompts", *batch)
    serves(living)


CHANNELS = ["celery.pidbox", "celeryev/worker.heartbeat", "celeryev/worker.#", "none.such"]


@fuzzed
@given(
    st.lists(
        st.tuples(st.sampled_from(CHANNELS), broadcasts),
        min_size=_IN_A_BATCH,
        max_size=_IN_A_BATCH,
    )
)
def test_anything_on_celerys_channels_leaves_a_worker_that_listens(living, batch):
    fleet, _ = living
    for channel, item in batch:
        fleet.redis.publish(f"/3.{channel}", item)
    serves(living)


ODD = {
    "null": b"null",
    "an empty list": b"[]",
    "a number": b"7",
    "a string": b'"x"',
    "nothing": b"",
    "no JSON": b"\xff\x00",
    "nested without end": b"[" * 100_000,
    "Decimal of kombu's own JSON": b'{"__type__": "decimal", "__value__": "x"}',
    "a body that is not base64": {"raw": {"body": "%%%"}},
    "a body of another type": {"raw": {"body": 7}},
    "no properties": {"raw": {"properties": None}},
    "an unknown body encoding": {"properties.body_encoding": "rot13"},
    "an unknown content type": {"content-type": "application/x-other"},
    "pickle": {"content-type": "application/x-python-serialize"},
    "headers that are none": {"headers": 7},
    "a clock that is text": {"headers": {"clock": "x"}},
    "a clock without end": {"headers": {"clock": 10**400}},
    "compressed": {"headers": {"compression": "application/x-gzip"}},
}
COMMANDS = {
    "no method": {},
    "a method that is none": {"method": "none such"},
    "a method of another type": {"method": {}},
    "unknown arguments": {"method": "ping", "arguments": {"a": 1}},
    "arguments that are a list": {"method": "ping", "arguments": [1]},
    "a reply to nobody": {"method": "ping", "reply_to": {}},
    "a reply to a job queue": {"method": "ping", "reply_to": {"exchange": "", "routing_key": "x"}},
    "a pattern that never ends": {"method": "ping", "pattern": "(a+)+$", "matcher": "pcre"},
    "an unknown matcher": {"method": "ping", "pattern": "a", "matcher": "x"},
    "revoked tasks of another type": {
        "method": "hello",
        "arguments": {"from_node": "x", "revoked": {"a": "soon", "b": 1}},
    },
    "an ID that cannot be hashed": {"method": "revoke", "arguments": {"task_id": [[]]}},
    "huge": {"method": "ping", "arguments": {"a": "x" * 20_000_000}},
    "unknown fields": {"method": "ping", "self": 1, "more": 2},
}


def test_invalid_command_is_dropped_and_the_next_is_answered(living):
    fleet, worker = living
    for change in ODD.values():
        item = change
        if isinstance(change, dict):
            sent = broadcast({"method": "ping"})
            for path, value in change.get("raw", change).items():
                sent = changed(sent, path, value) if "." in path else {**sent, path: value}
            item = json.dumps(sent)
        assert fleet.redis.publish("/3.celery.pidbox", item) == 1
    for body in COMMANDS.values():
        assert fleet.redis.publish("/3.celery.pidbox", json.dumps(broadcast(body))) == 1
    serves(living)
    assert "Restoring" not in worker.log
    assert "Connection to broker lost" not in worker.log
    assert not fleet.redis.exists("x")


NAMED = st.sampled_from(sorted({"prompts", "other", "worker.generate", "SIGTERM", "next"}))
ARGUMENTS = st.sampled_from([
    "n", "max", "min", "queue", "exchange", "exchange_type", "routing_key", "no_ack",
    "task_id", "ids", "terminate", "signal", "task_name", "rate_limit", "soft", "hard",
    "taskinfoitems", "with_defaults", "safe", "samples", "id", "topic", "action", "headers",
    "modules", "reload", "from_node", "revoked", "builtins", "type", "num", "max_depth",
])  # fmt: skip
# Left out: commands that rightly end the worker, slow its jobs down or stop its consumer.
HARMLESS = sorted(Panel.data.keys() - {"shutdown", "rate_limit", "time_limit", "cancel_consumer"})


@fuzzed
@given(
    st.lists(
        st.tuples(
            st.sampled_from(HARMLESS), st.dictionaries(ARGUMENTS, NAMED | anything, max_size=4)
        ),
        min_size=_IN_A_BATCH,
        max_size=_IN_A_BATCH,
    )
)
def test_any_arguments_of_a_command_change_nothing_that_a_job_needs(living, batch):
    fleet, worker = living
    for method, arguments in batch:
        item = broadcast({"method": method, "arguments": arguments})
        fleet.redis.publish("/3.celery.pidbox", json.dumps(item))
    serves(living)
    inspect = fleet.app.control.inspect([worker.hostname], timeout=10, limit=1)
    [queue] = inspect.active_queues()[worker.hostname]
    assert queue["name"] == "prompts"
    assert inspect.stats()[worker.hostname]["pool"]["max-concurrency"] >= 1


COMMANDS_REFUSED = {
    "add_consumer": {"queue": "other"},
    "cancel_consumer": {"queue": "other"},
    "pool_shrink": {"n": 60000},
    "pool_grow": {"n": 65535},
    "rate_limit": {"task_name": "worker.generate", "rate_limit": "nan/s"},
    "time_limit": {"task_name": "worker.generate", "hard": -1},
    "shutdown": {"msg": 7},
    "autoscale": {"max": 3},
}


def test_command_that_cannot_be_obeyed_is_answered_with_an_error(living):
    fleet, worker = living
    logged = len(worker.log)
    for method, arguments in COMMANDS_REFUSED.items():
        [reply] = fleet.app.control.broadcast(
            method,
            arguments=arguments,
            destination=[worker.hostname],
            reply=True,
            timeout=10,
            limit=1,
        )
        error = reply[worker.hostname]["error"]
        assert error.startswith(method)
        assert "\n" not in error
    assert "Traceback" not in worker.log[logged:]
    serves(living)


def test_consumer_of_the_jobs_may_be_cancelled_and_added(living):
    fleet, worker = living
    for method in ("cancel_consumer", "add_consumer"):
        [reply] = fleet.app.control.broadcast(
            method,
            arguments={"queue": "prompts"},
            destination=[worker.hostname],
            reply=True,
            timeout=10,
            limit=1,
        )
        assert "ok" in reply[worker.hostname]
    serves(living)


def test_revoke_after_garbage_is_obeyed(living):
    """What a worker has adopted from a broadcast would show here."""
    fleet, _ = living
    job_id = fleet.send(prompt("[[endless]] [[delay:0.05]] x"))
    fleet.running(job_id)
    fleet.app.control.revoke(job_id, terminate=True)
    assert fleet.ended(job_id)[-1]["type"] == "cancelled"


HEADERS = {
    "no ID": {"id": None},
    "stamps of another type": {"stamped_headers": 7, "stamps": 7},
    "stamps that are a list": {"stamped_headers": ["x"], "stamps": ["x"], "expires": "2100-01-01"},
    "an expiry in the year 1": {"expires": "0001-01-01T00:00:00"},
    "an eta in the year 1": {"eta": "0001-01-01T00:00:00"},
    "retries that are text": {"retries": "x"},
    "a task that cannot be hashed": {"task": {}},
    "an origin of another type": {"origin": {"a": 10**400}},
    "trace context of another type": {"traceparent": 7, "tracestate": []},
}


@pytest.mark.parametrize("name", HEADERS)
def test_message_with_headers_of_any_type_is_worked_off(living, name):
    fleet, _ = living
    item = task()
    item["headers"].update(HEADERS[name])
    fleet.redis.lpush("prompts", json.dumps(item))
    fleet.redis.lpush("prompts", json.dumps({**item, "headers": HEADERS[name]}))
    serves(living)
