"""The main job and each command, on each topology, with one worker."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from berlin_schemas import names
from berlin_worker.client import Client
from berlin_worker.embedded.upstream import upstream_in_thread
from tests.support.checker import text_of
from tests.support.cli import run_berlin
from tests.support.fleet import QUICK_LEASES, Fleet, prompt
from tests.support.topologies import Topology
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration


SHOWN = {
    "single": {"kind": "single", "primaries": 0, "replicas": 0, "sentinels": 0, "away": []},
    "sentinel": {"kind": "sentinel", "primaries": 1, "replicas": 1, "sentinels": 0, "away": []},
    "cluster": {"kind": "cluster", "primaries": 3, "replicas": 3, "sentinels": 0, "away": []},
}


@pytest.fixture
def fleet(topology: Topology) -> Iterator[Fleet]:
    with upstream_in_thread(reply=lambda asked: f"echo of {asked}") as upstream:
        yield Fleet(topology.redis_url, upstream, topology.broker_url)


def berlin(
    fleet: Fleet, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return run_berlin(*arguments, env=os.environ | (env or fleet.env))


def test_jobs_run_and_are_read_cancelled_listed_and_shown(fleet: Fleet, topology: Topology) -> None:
    url, broker_url = fleet.env["REDIS_URL"], fleet.env["CELERY_BROKER_URL"] or None
    with fleet.worker(WORKER_HTTP_PORT="0") as worker, Client(url, broker_url) as client:
        bare = fleet.send(prompt("bare"))
        assert client.result(client.submit("client"), timeout_s=30).text == "echo of client"
        assert text_of(fleet.ended(bare)) == "echo of bare"
        assert fleet.upstream.logins == 1  # its token is in Redis

        stopped = client.submit("[[delay:1]] a b c d e f g h i j k l m n o p q r s t")
        fleet.running(stopped)
        client.cancel(stopped, "no more of it")
        assert fleet.ended(stopped)[-1]["type"] == "cancelled"
        assert {status.job_id for status in client.list()} == {stopped, bare, *_others(client)}

        assert berlin(fleet, "submit", "by hand").stdout.strip() == "echo of by hand"
        assert berlin(fleet, "tail", bare).stdout.strip() == "echo of bare"
        top = json.loads(berlin(fleet, "top", "--once", "--json").stdout)
        assert len(top["workers"]) == 1
        assert top["topology"] | {"sentinels": 0} == SHOWN[topology.kind]

        fleet.send(prompt("no job"), task_id="no job id")
        wait_until(lambda: fleet.redis.xlen(names.DEAD_LETTERS), "a dead letter")
        fleet.redis.xadd(names.DEAD_LETTERS, {"reason": "x", "job": json.dumps(prompt("again"))})
        entry, garbage = berlin(fleet, "dead", "list").stdout.splitlines()
        assert "invalid_job_id" in garbage
        replayed = berlin(fleet, "dead", "replay", entry.split()[0])
        assert text_of(fleet.ended(replayed.stdout.strip())) == "echo of again"
        assert berlin(fleet, "dead", "list").stdout.splitlines() == [garbage]

        # Readers need no queue; on a cluster there is none by default.
        readers = fleet.env | {"CELERY_BROKER_URL": ""}
        assert berlin(fleet, "tail", bare, env=readers).stdout.strip() == "echo of bare"
        submitted = berlin(fleet, "submit", "Hello", "--no-wait", env=readers)
        assert submitted.returncode == (2 if topology.kind == "cluster" else 0)
        if topology.kind == "cluster":
            assert "set CELERY_BROKER_URL to another Redis" in submitted.stderr
        doctor = berlin(fleet, "doctor", "--no-login")
        assert doctor.returncode == 0, doctor.stdout
        assert worker.stop() == 0


def _others(client: Client) -> set[str]:
    return {status.job_id for status in client.list() if status.status == "completed"}


def test_stream_of_a_killed_or_drained_worker_continues_at_another(fleet: Fleet) -> None:
    with fleet.worker(**QUICK_LEASES) as doomed:
        job_id = fleet.send(prompt("[[delay:0.3]] a b c d e f"))
        fleet.running(job_id)
        doomed.kill()
    with fleet.worker(**QUICK_LEASES, WORKER_DRAIN_TIMEOUT_S="0.1") as drained:
        wait_until(lambda: fleet.attempt(job_id) == 2, "a second attempt")
        drained.stop()
    with fleet.worker(**QUICK_LEASES):
        assert fleet.ended(job_id)[-1]["type"] == "completed"
