"""Messages on Redis: extended by a running worker, requeued after the death of another."""

import json
import time

import pytest

from berlin_worker.config.recovery_times import VISIBILITY_TIMEOUT_S
from tests.support.fleet import prompt
from tests.support.workers import VERBOSE, wait_until

pytestmark = pytest.mark.integration

INDEX = "unacked_index:prompts"


def test_held_message_is_extended_and_delivered_once(fleet):
    with fleet.worker(*VERBOSE) as worker:
        job_id = fleet.send(prompt("[[endless]] [[delay:0.1]]"))
        fleet.running(job_id)
        ((tag, taken),) = fleet.redis.zrange(INDEX, 0, -1, withscores=True)
        wait_until(
            lambda: fleet.redis.zscore(INDEX, tag) > taken + VISIBILITY_TIMEOUT_S + 2,
            "renewed for longer than the timeout",
        )
        assert worker.log.count("] received") == 1
    assert len(fleet.upstream.prompts) == 1


def test_message_is_held_while_its_worker_drains(fleet):
    with fleet.worker(WORKER_DRAIN_TIMEOUT_S=f"{VISIBILITY_TIMEOUT_S + 4}") as leaving:
        job_id = fleet.send(prompt("[[endless]] [[delay:0.1]] x"))
        fleet.running(job_id)
        with fleet.worker(*VERBOSE) as other:
            assert leaving.stop() == 0
            wait_until(lambda: fleet.attempt(job_id) == 2, "handed on")
            # Its worker released it: it was not requeued, and dropped, before that.
            assert other.log.count("] received") == 1


def test_message_reserved_by_a_dead_worker_comes_back(fleet):
    job_id = fleet.send(prompt("taken"))
    message = json.loads(fleet.redis.rpop("prompts"))
    tag = message["properties"]["delivery_tag"]
    fleet.redis.hset("unacked:prompts", tag, json.dumps([message, "", "prompts"]))
    fleet.redis.zadd(INDEX, {tag: time.time()})
    with fleet.worker():
        assert fleet.ended(job_id)[-1]["type"] == "completed"


def test_stopped_worker_leaves_no_pending_acknowledgement(fleet):
    with fleet.worker() as worker:
        job_ids = [fleet.send(prompt(f"number {number}")) for number in range(50)]
        fleet.ended(job_ids[0])
        assert worker.stop() == 0
        # Each job has ended, or waits again: no worker holds one.
        assert fleet.redis.zcard(INDEX) == fleet.redis.hlen("unacked:prompts") == 0


def test_keys_of_wrong_types_stop_no_worker_that_starts_or_runs(fleet):
    hostname = "wrong@types"
    keys = ["prompts", "prompts\x06\x163", "_kombu.binding.prompts", "unacked:prompts", INDEX]
    keys += ["_kombu.binding_permanent.prompts", "unacked:prompts:redelivered"]
    keys += [f"{hostname}.celery.pidbox", "_kombu.binding_deadlines", "worker:nothing"]
    for exchange in ("celery.pidbox", "celeryev", "reply.celery.pidbox"):
        keys += [f"_kombu.binding.{exchange}", f"_kombu.binding_permanent.{exchange}"]
    for key in keys:
        fleet.redis.set(key, "x")
    with fleet.worker("-n", hostname):
        for _ in range(2):
            wait_until(lambda: not fleet.redis.exists("prompts", "prompts\x06\x163"), "healed")
            assert fleet.ended(fleet.send(prompt("a")))[-1]["type"] == "completed"
            wait_until(lambda: not fleet.redis.exists("unacked:prompts"), "acknowledged")
            for key in ("prompts", "prompts\x06\x163", "unacked:prompts", INDEX):
                fleet.redis.set(key, "x")
    fleet.redis.delete(*keys)
