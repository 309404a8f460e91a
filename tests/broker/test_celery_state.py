"""Celery's commands and Celery's view of jobs: events, revoke, purge, and the exit code."""

import json
import uuid

import pytest

from berlin_worker.embedded.upstream import upstream_in_thread
from tests.support.celery_cli import run_command
from tests.support.fleet import Fleet, prompt
from tests.support.workers import ROOT, wait_until
from tests.worker.test_leaks import events_of

pytestmark = pytest.mark.integration

ENDINGS = {"task-succeeded", "task-failed", "task-revoked", "task-rejected", "task-retried"}


@pytest.fixture(scope="module")
def seen(redis_server):
    """A fleet, its worker, and the events that Celery sends meanwhile."""
    with upstream_in_thread() as upstream:
        fleet = Fleet(redis_server.url.removesuffix("/0") + "/3", upstream)
        fleet.env |= {"WORKER_RETRY_BASE_S": "0.01", "WORKER_MAX_ATTEMPTS": "1"}
        fleet.redis.flushdb()
        with events_of(fleet.app) as events, fleet.worker("-c", "4", "-E") as worker:
            yield fleet, worker, events


def endings(events, job_id):
    return [
        each["type"] for each in events if each.get("uuid") == job_id and each["type"] in ENDINGS
    ]


def reported(seen, job_id, *expected):
    """Wait until Celery has reported the end of a job; it reports no other one."""
    _, _, events = seen
    wait_until(lambda: endings(events, job_id), f"an ending of {job_id}")
    assert endings(events, job_id) == list(expected)


def test_completed_job_is_a_success(seen):
    fleet = seen[0]
    job_id = fleet.send(prompt("Hello"))
    reported(seen, job_id, "task-succeeded")


@pytest.mark.parametrize("text", ["[[status:500]]", "[[cut:1]]"])
def test_job_that_fails_in_its_run_is_a_failure_in_one_line(seen, text):
    fleet, worker, events = seen
    job_id = fleet.send(prompt(f"{text} Hello", on_interrupt="fail"))
    reported(seen, job_id, "task-failed")
    (failed,) = (each for each in events if each.get("uuid") == job_id and "exception" in each)
    code = fleet.ended(job_id)[-1]["error"]["code"]
    assert failed["exception"] == f"TaskFailed('{code}')"
    assert "Traceback" not in worker.log


def test_refused_job_is_a_failure(seen):
    fleet = seen[0]
    job_id = fleet.send({"messages": []})
    reported(seen, job_id, "task-failed")
    assert fleet.ended(job_id)[-1]["error"]["code"] == "invalid_job"


def test_job_cancelled_while_it_runs_is_revoked(seen):
    fleet = seen[0]
    job_id = fleet.send(prompt("[[endless]] [[delay:0.05]] Hello"))
    fleet.running(job_id)
    fleet.redis.hset(f"job:{{{job_id}}}:state", "cancel", 1)
    fleet.redis.publish("job-control", json.dumps({"cancel": job_id}))
    reported(seen, job_id, "task-revoked")
    assert fleet.ended(job_id)[-1]["type"] == "cancelled"


@pytest.mark.parametrize("ended_first", [False, True])
def test_job_cancelled_before_it_begins_is_revoked(seen, ended_first):
    fleet, job_id = seen[0], str(uuid.uuid4())
    fleet.redis.hset(f"job:{{{job_id}}}:state", "cancel", 1)
    if ended_first:
        fleet.redis.hset(f"job:{{{job_id}}}:state", "status", "queued")
        fleet.redis.publish("job-control", json.dumps({"cancel": job_id}))
        fleet.ended(job_id)
    fleet.send(prompt("Hello"), task_id=job_id)
    reported(seen, job_id, "task-revoked")
    assert [each["type"] for each in fleet.ended(job_id)] == ["cancelled"]


@pytest.mark.parametrize("text", ["Hello", "[[status:500]] Hello"])
def test_second_delivery_of_a_job_reports_no_second_end(seen, text):
    fleet, _, events = seen
    job_id = fleet.send(prompt(text))
    fleet.ended(job_id)
    fleet.send(prompt(text), task_id=job_id)
    wait_until(
        lambda: [e["type"] for e in events if e.get("uuid") == job_id].count("task-started") == 2,
        "the second delivery",
    )
    later = fleet.send(prompt("later"))
    reported(seen, later, "task-succeeded")
    wait_until(lambda: not fleet.redis.exists("unacked:prompts"), "both are acknowledged")
    assert len(endings(events, job_id)) == 1


def test_revoke_flags_waiting_jobs_and_leaves_running_ones(seen):
    """One ID or a list, garbage among them; the flag has a TTL."""
    fleet, worker, _ = seen
    running = fleet.send(prompt("[[delay:0.3]] a b c d e f"))
    fleet.running(running)
    waiting = [str(uuid.uuid4()) for _ in range(3)]
    fleet.app.control.revoke([running, "../x", *waiting[:2]])
    fleet.app.control.revoke(waiting[2], destination=[worker.hostname])
    for garbage in (None, 7, {"a": 1}, [[1]], "job:{x}", ["", None]):
        fleet.app.control.revoke(garbage)
    for job_id in waiting:
        key = f"job:{{{job_id}}}:state"
        wait_until(lambda key=key: fleet.redis.hget(key, "cancel"), "the flag")
        assert fleet.redis.ttl(key) > 0
        fleet.send(prompt("Hello"), task_id=job_id)
        ends = [(each["type"], each["reason"]) for each in fleet.ended(job_id)]
        assert ends == [("cancelled", "revoked")]
    assert fleet.ended(running)[-1]["type"] == "completed"
    assert not [key for key in fleet.redis.keys("job:*") if b"x" in key.split(b"}")[0]]


def test_revoke_with_terminate_cancels_running_jobs(seen):
    fleet = seen[0]
    job_id = fleet.send(prompt("[[endless]] [[delay:0.05]] Hello"))
    fleet.running(job_id)
    fleet.app.control.revoke(job_id, terminate=True)
    reported(seen, job_id, "task-revoked")
    assert fleet.ended(job_id)[-1]["reason"] == "revoked"


def test_purge_ends_waiting_jobs_and_no_worker_requeues_them(fleet):
    """Every list, garbage, what a worker holds, a job that runs, and one that is over."""
    bare = [fleet.send(prompt(f"bare {n}")) for n in range(60)]
    for priority in (3, 6, 9):
        sent = fleet.app.send_task(
            "worker.generate", [prompt("urgent")], queue="prompts", priority=priority
        )
        bare.append(sent.id)
    recorded, running, over = (fleet.send(prompt(text)) for text in ("recorded", "runs", "over"))
    record = {"status": "queued", "job": json.dumps(prompt("recorded")), "created_ms": 1}
    fleet.redis.hset(f"job:{{{recorded}}}:state", mapping=record)
    fleet.redis.hset(f"job:{{{running}}}:state", mapping={"status": "running", "attempt": 1})
    fleet.redis.hset(f"job:{{{over}}}:state", "status", "completed")
    fleet.redis.zadd("worker:due", {recorded: 1, running: 9e12})
    fleet.redis.zadd("worker:due", {running: fleet.redis.time()[0] * 1000 + 60_000})
    for garbage in (b"\xff", b"", b"[]", b"{}", b'{"headers": {"id": "../x"}}', b"[" * 100_000):
        fleet.redis.lpush("prompts", garbage)
        fleet.redis.hset("unacked:prompts", str(uuid.uuid4()), garbage)
    scheduled = fleet.send(prompt("a worker holds it until its time"))
    for held in (scheduled, running, over):
        message = json.dumps({"headers": {"id": held}}).encode()
        fleet.redis.hset("unacked:prompts", held, b"7:prompts" + message)
    fleet.redis.lpop("prompts")  # of the scheduled one
    _, text = run_command(["purge", "-f"], fleet.env)
    assert "Purged 73 messages" in text
    assert not fleet.redis.keys("prompts*")
    for job_id in (*bare, recorded, scheduled):
        (event,) = fleet.events(job_id)
        assert (event["type"], event["reason"]) == ("cancelled", "purged")
        assert fleet.redis.ttl(f"job:{{{job_id}}}:log") > 0
    assert fleet.events(running) == fleet.events(over) == []
    assert fleet.redis.zrange("worker:due", 0, -1) == [running.encode()]


def test_failed_purge_is_an_error_and_leaves_the_messages(fleet):
    job_id = fleet.send(prompt("Hello"))
    fleet.env["WORKER_EVENT_SHARDS"] = "redis://127.0.0.1:1/0"
    code, text = run_command(["purge", "-f"], fleet.env)
    assert code == 1
    assert "what is left is still on the queue" in text
    assert fleet.redis.llen("prompts") == 1
    assert fleet.events(job_id) == []
    for scheme in ("redis", "amqp"):
        fleet.env["CELERY_BROKER_URL"] = f"{scheme}://user:hunter2@127.0.0.1:1/"
        code, text = run_command(["purge", "-f"], fleet.env)
        assert code == 1
        (line,) = text.strip().splitlines()
        assert "the purge has stopped" in line
        assert "hunter2" not in line


def test_background_task_that_dies_ends_the_worker_with_a_failure_after_the_drain(fleet):
    fault = ROOT / "tests" / "sample_app" / "dying_task.py"
    with fleet.worker("-c", "2", "--include", "tests.sample_app.dying_task") as worker:
        assert fault.exists()
        job_id = fleet.send(prompt("[[delay:0.2]] a b c d e f g h"))
        fleet.running(job_id)
        fleet.redis.publish("job-control", b'{"cancel": "the-end"}')
        assert worker.wait() == 1
        assert fleet.ended(job_id)[-1]["type"] == "completed"
    assert "control has stopped" in worker.log
