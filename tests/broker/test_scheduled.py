"""Jobs with a countdown: a worker holds them until their ETA, and may stop before it."""

import json
import time

import pytest

from tests.support.faulty_provider import with_clock_ahead
from tests.support.fleet import Fleet, prompt
from tests.support.workers import VERBOSE, WorkerProcess, wait_until

pytestmark = pytest.mark.integration

QUEUE, HELD, INDEX = "prompts", "unacked:prompts", "unacked_index:prompts"


def schedule(fleet: Fleet, count: int, countdown_s: float = 600) -> list[str]:
    return [
        fleet.app.send_task(
            "worker.generate", [prompt(f"number {n}")], queue=QUEUE, countdown=countdown_s
        ).id
        for n in range(count)
    ]


def held(fleet: Fleet) -> int:
    return fleet.redis.hlen(HELD)


def received(worker: WorkerProcess) -> int:
    return worker.log.count("] received")


def queued(fleet: Fleet) -> list[str]:
    return [json.loads(raw)["headers"]["id"] for raw in fleet.redis.lrange(QUEUE, 0, -1)]


def test_worker_with_free_slots_requeues_all_scheduled_jobs(fleet):
    with fleet.worker("-c", "20", *VERBOSE) as worker:
        sent = schedule(fleet, 12)
        wait_until(lambda: held(fleet) == 12 == received(worker), "it holds them")
        assert worker.stop() == 0
    assert sorted(queued(fleet)) == sorted(sent)
    assert held(fleet) == fleet.redis.zcard(INDEX) == 0


def test_scheduled_jobs_are_requeued_at_once_while_a_stream_runs(fleet):
    with fleet.worker("-c", "20", *VERBOSE, WORKER_DRAIN_TIMEOUT_S="60") as worker:
        running = fleet.send(prompt("[[endless]] [[delay:0.05]] a"))
        sent = schedule(fleet, 3)
        fleet.running(running)
        wait_until(lambda: held(fleet) == 4 == received(worker), "it holds them")
        worker.process.terminate()
        wait_until(lambda: sorted(queued(fleet)) == sorted(sent), "they are back")
        fleet.redis.hset(f"job:{{{running}}}:state", "cancel", "1")
        fleet.redis.publish("job-control", json.dumps({"cancel": running}))
        assert worker.wait() == 0
    assert sorted(queued(fleet)) == sorted(sent)


def test_killed_successor_loses_no_scheduled_job(fleet):
    with fleet.worker("-c", "20", *VERBOSE) as first, fleet.worker("-c", "20", *VERBOSE) as second:
        sent = schedule(fleet, 10, countdown_s=25)
        wait_until(lambda: received(first) + received(second) == 10, "they hold them")
        assert first.stop() == 0
        wait_until(lambda: held(fleet) == fleet.redis.zcard(INDEX) == 10, "the other has all")
        second.kill()
    with fleet.worker("-c", "20"):
        assert {fleet.ended(job_id)[-1]["type"] for job_id in sent} == {"completed"}
    assert len(fleet.upstream.prompts) == 10


def test_workers_with_different_clocks_run_each_scheduled_job_once_and_none_early(fleet, tmp_path):
    """The jobs wait longer than the visibility timeout, so the workers must renew the messages."""
    sites = [tmp_path / str(ahead) for ahead in (-30, 30)]
    for site in sites:
        site.mkdir()
    envs = [with_clock_ahead(site, float(site.name)) for site in sites]
    with (
        fleet.worker("-c", "20", *VERBOSE, **envs[0]) as behind,
        fleet.worker("-c", "20", *VERBOSE, **envs[1]) as ahead,
        fleet.worker("-c", "20", *VERBOSE) as right,
    ):
        due = time.time() + 12
        sent = schedule(fleet, 9, countdown_s=12)
        wait_until(lambda: any(fleet.log(job_id) for job_id in sent), "the first begins")
        assert time.time() > due - 1  # two clocks that differ by half a second count as the same
        assert {fleet.ended(job_id)[-1]["type"] for job_id in sent} == {"completed"}
        assert sum(map(received, (behind, ahead, right))) == 9
    assert len(fleet.upstream.prompts) == 9


def test_scheduled_jobs_of_a_foreign_producer_return_to_their_list(fleet):
    """The messages have the routing key of another queue, and all of them one tag."""
    # Two workers start and hold them before they are due.
    sent = schedule(fleet, 6, countdown_s=25)
    foreign = []
    for raw in fleet.redis.lrange(QUEUE, 0, -1):
        message = json.loads(raw)
        message["properties"]["delivery_tag"] = "always the same"
        message["properties"]["delivery_info"] = {"exchange": "celery", "routing_key": "celery"}
        foreign.append(json.dumps(message))
    fleet.redis.delete(QUEUE)
    fleet.redis.rpush(QUEUE, *foreign)
    with fleet.worker("-c", "20", *VERBOSE) as worker:
        wait_until(lambda: held(fleet) == 6 == received(worker), "it holds them")
        assert worker.stop() == 0
    assert sorted(raw.decode() for raw in fleet.redis.lrange(QUEUE, 0, -1)) == sorted(foreign)
    with fleet.worker("-c", "20", *VERBOSE) as worker:
        wait_until(lambda: held(fleet) == 6 == received(worker), "it holds them")
        worker.kill()
    with fleet.worker("-c", "20"):
        assert {fleet.ended(job_id)[-1]["type"] for job_id in sent} == {"completed"}
    assert not fleet.redis.exists("celery")


def test_large_scheduled_jobs_wait_without_a_slot_and_run_when_they_are_due(fleet):
    """They wait longer than the visibility timeout, in the order of their ETAs."""
    with fleet.worker("-c", "1", *VERBOSE) as worker:
        due = time.time() + 12
        sent = [
            fleet.app.send_task(
                "worker.generate", [prompt(f"number {n} " + "x" * 20_000)], queue=QUEUE, countdown=s
            ).id
            for n, s in enumerate([12.4, 12, 12.8, 600])
        ]
        now = fleet.send(prompt("due"))
        assert fleet.ended(now)[-1]["type"] == "completed"
        wait_until(lambda: held(fleet) == fleet.redis.zcard(INDEX) == 4, "held by their tags")
        assert received(worker) == 1
        fleet.running(sent[0])
        assert time.time() > due - 1
        assert {fleet.ended(job_id)[-1]["type"] for job_id in sent[:3]} == {"completed"}
        assert received(worker) == 4
        assert worker.stop() == 0
    assert held(fleet) + len(queued(fleet)) == 1
    assert len(fleet.upstream.prompts) == 4
