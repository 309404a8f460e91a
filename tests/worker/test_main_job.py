"""The main job on real parts: a bare producer, a real worker, a bare subscriber."""

import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from berlin_schemas import names
from berlin_worker.embedded.upstream import upstream_in_thread
from tests.support.checker import text_of
from tests.support.fleet import QUICK_LEASES, Fleet, prompt, recorded
from tests.support.fork_server import run_python
from tests.support.topologies import chosen, emptied
from tests.support.workers import ROOT, WorkerProcess, wait_until

pytestmark = pytest.mark.integration


def test_bare_producer_and_a_bare_subscriber_see_the_same_bytes_as_the_log(fleet):
    job_id = names.new_job_id()
    with fleet.worker("-c", "10"), recorded(fleet, job_id) as published:
        fleet.send(prompt("Grüße 🙂\u2028 and more"), task_id=job_id)
        events = fleet.ended(job_id)
        wait_until(lambda: len(published[job_id]) == len(events), "all on the channel")
        assert published[job_id] == fleet.log(job_id)
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert [e["type"] for e in events] == ["started", *["chunk"] * (len(events) - 2), "completed"]
    assert {(e["v"], e["job_id"], e["attempt"]) for e in events} == {(1, job_id, 1)}
    assert text_of(events) == "echo of Grüße 🙂\u2028 and more"
    assert events[-1]["finish_reason"] == "stop"
    entry_ids = [entry for entry, _ in fleet.redis.xrange(f"job:{{{job_id}}}:log")]
    assert entry_ids == [f"{n}-0".encode() for n in range(1, len(events) + 1)]


def test_200_jobs_of_50_chunks_in_flight_are_right_to_the_byte(fleet):
    def reply(asked: str) -> str:
        return " ".join(f"{asked}-{n}" for n in range(50))

    job_ids = {f"job{n}": names.new_job_id() for n in range(200)}
    with (
        upstream_in_thread(reply=reply, chunk_delay_s=0.02) as upstream,
        fleet.worker("-c", "200", **upstream.environ),
        recorded(fleet, *job_ids.values()) as published,
    ):
        for asked, job_id in job_ids.items():
            fleet.send(prompt(asked), task_id=job_id)
        for asked, job_id in job_ids.items():
            events = fleet.ended(job_id)
            assert [e["seq"] for e in events] == list(range(1, 53))
            assert text_of(events) == reply(asked)
        wait_until(lambda: sum(map(len, published.values())) == 200 * 52, "all on the channels")
        assert published == {job_id: fleet.log(job_id) for job_id in job_ids.values()}
        assert upstream.logins == 1
        assert upstream.max_open_streams > 100
    assert all(fleet.redis.ttl(key) > 0 for key in fleet.redis.scan_iter("job:*"))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {}),
        (["not an object"], {}),
        ([None], {}),
        ([[]], {}),
        ([{}], {}),
        ([prompt("x"), 2], {}),
        ([prompt("x")], {"messages": []}),
        ([], {"job": prompt("x")}),
        ([prompt("x", unknown=1)], {}),
        ([prompt("x", deadline_s="5")], {}),
        ([prompt("x", messages=[])], {}),
        ([prompt("x", messages=[{"role": "robot", "content": "x"}])], {}),
        ([prompt("x", provider="nobody")], {}),
        ([prompt("x", options={"n": 2})], {}),
        ([prompt("x", proxy="http://127.0.0.1:1")], {}),
        ([prompt("x", job_id="another")], {}),
        ([prompt("x" * 1024 * 1024)], {}),
    ],
)
def test_bad_job_ends_as_invalid_and_never_goes_upstream(bad_jobs_fleet, args, kwargs):
    fleet = bad_jobs_fleet
    (event,) = fleet.ended(fleet.send(*args, **kwargs))
    assert (event["type"], event["seq"], event["attempt"]) == ("failed", 1, 1)
    assert event["error"]["code"] == "invalid_job"
    assert event["error"]["retryable"] is False
    assert fleet.upstream.calls == []


@pytest.fixture(scope="module")
def bad_jobs_fleet(request) -> Iterator[Fleet]:
    """One worker for all bad jobs: it outlives each of them. A Redis database of their own."""
    on = emptied(request, chosen(request.config), db=1)
    with upstream_in_thread() as upstream:
        fleet = Fleet(on.redis_url, upstream, on.broker_url)
        with fleet.worker("-c", "4"):
            yield fleet


def test_task_id_that_is_no_job_id_reaches_no_key(fleet):
    with fleet.worker():
        fleet.send(prompt("x"), task_id="no job id: {}*")
        wait_until(lambda: fleet.redis.xlen("worker:dead"), "a dead letter")
        fleet.ended(fleet.send(prompt("next")))
    assert not list(fleet.redis.scan_iter("*no job id*"))


def test_running_job_that_is_cancelled_leaves_the_upstream_and_ends_once(fleet):
    with fleet.worker():
        job_id = fleet.send(prompt("[[endless]] [[drip:0.01]]"))
        fleet.running(job_id)
        fleet.redis.hset(f"job:{{{job_id}}}:state", "cancel", 1)
        fleet.redis.publish("job-control", json.dumps({"cancel": job_id}))
        events = fleet.ended(job_id)
        wait_until(lambda: fleet.upstream.open_streams == 0, "the upstream is left")
    assert events[-1]["type"] == "cancelled"


def test_cancel_whose_message_was_missed_is_found_with_the_next_renewal(fleet):
    with fleet.worker(WORKER_RENEW_INTERVAL_S="0.2"):
        job_id = fleet.send(prompt("[[endless]] [[drip:0.01]]"))
        fleet.running(job_id)
        fleet.redis.hset(f"job:{{{job_id}}}:state", "cancel", 1)
        assert fleet.ended(job_id)[-1]["type"] == "cancelled"


def test_job_cancelled_before_a_worker_is_there_never_goes_upstream(fleet):
    job_id = fleet.send(prompt("x"))
    fleet.redis.hset(f"job:{{{job_id}}}:state", "cancel", 1)
    fleet.redis.publish("job-control", json.dumps({"cancel": job_id}))
    with fleet.worker():
        (event,) = fleet.ended(job_id)
    assert event["type"] == "cancelled"
    assert fleet.upstream.calls == []


@pytest.mark.parametrize("terminate", [True, False])
def test_job_revoked_while_it_waits_ends_as_cancelled(fleet, terminate):
    with fleet.worker("-c", "1"):
        blocking = fleet.send(prompt("[[endless]] [[drip:0.01]]"))
        fleet.running(blocking)
        waiting = fleet.send(prompt("waiting"))
        fleet.app.control.revoke(waiting, terminate=terminate)
        fleet.app.control.revoke(blocking, terminate=True)
        assert fleet.ended(blocking)[-1]["type"] == "cancelled"
        assert [e["type"] for e in fleet.ended(waiting)] == ["cancelled"]
        assert not any("waiting" in asked for asked in fleet.upstream.prompts)


def test_second_delivery_of_a_job_is_dropped(fleet):
    with fleet.worker():
        task_id = str(uuid.uuid4())
        fleet.send(prompt("once"), task_id=task_id)
        first = fleet.ended(task_id)
        fleet.send(prompt("once"), task_id=task_id)
        fleet.ended(fleet.send(prompt("another")))
        assert fleet.ended(task_id) == first
    assert len(fleet.upstream.prompts) == 2


def test_stopped_worker_releases_its_job_and_the_reader_gets_a_reset(fleet):
    with fleet.worker(WORKER_DRAIN_TIMEOUT_S="0.1") as first:
        job_id = fleet.send(prompt("[[stall:2*1]] a b c d"))
        fleet.running(job_id)
        assert first.stop() == 0
    with fleet.worker():
        events = fleet.ended(job_id)
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert [e["attempt"] for e in events if e["type"] == "reset"] == [2]
    assert events[-1]["type"] == "completed"


def test_killed_workers_job_is_restarted_elsewhere(fleet):
    with fleet.worker(**QUICK_LEASES) as first:
        job_id = fleet.send(prompt("[[stall:2*1]] a b c d"))
        fleet.running(job_id)
        first.kill()
    with fleet.worker(**QUICK_LEASES):
        events = fleet.ended(job_id)
    assert [e["type"] for e in events].count("reset") == 1
    assert events[-1]["type"] == "completed"
    assert events[-1]["attempt"] == 2


def test_worker_without_credentials_ends_with_one_line(fleet):
    worker = WorkerProcess(
        "berlin_worker", env=fleet.env | {"BERLIN_ACCOUNT": "", "BERLIN_PASSWORD": ""}, wait=False
    )
    with worker:
        assert worker.wait() != 0
    assert re.search(r"BERLIN_ACCOUNT", worker.log)
    assert "Traceback" not in worker.log


def test_prompt_and_secrets_appear_in_no_log_of_the_worker(fleet):
    with fleet.worker("--loglevel", "DEBUG", "-E") as worker:
        fleet.ended(fleet.send(prompt("my secret prompt")))
        fleet.ended(fleet.send(prompt("my secret prompt", unknown="my secret prompt")))
        fleet.ended(fleet.send(prompt("[[garbage:1]] my secret prompt")))
        worker.stop()
    assert "worker.generate" in worker.log
    for secret in ("secret prompt", fleet.upstream.password, fleet.upstream.account):
        assert secret not in worker.log


def celery_control(fleet: Fleet, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "celery", "-A", "berlin_worker", "control", "--timeout", "5", *words]
    env = os.environ | fleet.env | {"PYTHONPATH": str(ROOT)}
    return run_python(command, env=env, cwd=ROOT)


def test_command_line_of_the_contract_ends_a_running_job(fleet):
    with fleet.worker("-c", "2"):
        job_id, other = (fleet.send(prompt("[[endless]] [[delay:0.05]] a")) for _ in range(2))
        fleet.running(job_id)
        fleet.running(other)
        reply = celery_control(fleet, "revoke", job_id, "--terminate")
        assert reply.returncode == 0, reply.stderr
        end = fleet.ended(job_id)[-1]
        assert (end["type"], end["reason"]) == ("cancelled", "revoked")
        assert fleet.events(other)[-1]["type"] == "chunk"
        wrong = celery_control(fleet, "shutdown", "--terminate")
        assert wrong.returncode == 2
        assert "--terminate belongs to revoke" in wrong.stderr


def test_workers_as_users_start_them_take_their_jobs_by_the_script(fleet):
    def waiting() -> list[str]:
        own = fleet.broker.client_info()["db"]  # other tests have workers on this server
        clients = [each for each in fleet.broker.client_list() if int(each["db"]) == int(own)]
        # The last command of an idle connection is shown as well.
        return sorted(each["cmd"] for each in clients if "b" in each["flags"])

    with fleet.worker("-c", "2", alone=False), fleet.worker("-c", "2", alone=False):
        job_ids = [fleet.send(prompt(f"job {n}")) for n in range(10)]
        assert {fleet.ended(job_id)[-1]["type"] for job_id in job_ids} == {"completed"}
        # One wait for each list of priorities of each worker.
        wait_until(lambda: waiting() == ["blmove"] * 8, "both wait, and move nothing")


def test_jobs_that_name_no_provider_go_to_the_default_without_berlins_account(fleet):
    default = {"WORKER_DEFAULT_PROVIDER": "echo", "WORKER_DEFAULT_MODEL": "small"}
    with fleet.worker(BERLIN_ACCOUNT="", BERLIN_PASSWORD="", **default) as worker:
        events = fleet.ended(fleet.send(prompt("say this")))
        assert text_of(events) == "say this"
        refused = fleet.ended(fleet.send(prompt("say this", provider="berlin")))
    assert [e["type"] for e in refused] == ["failed"]
    assert refused[0]["error"]["code"] == "invalid_job"
    assert "berlin is not configured" in refused[0]["error"]["message"]
    assert "providers: echo" in worker.log
