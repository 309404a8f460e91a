"""Sentinels as the address of the broker: the main job, and a failover under running jobs."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest
from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from berlin_worker.client import Client
from berlin_worker.embedded.redis_server import find_server, free_port
from berlin_worker.embedded.topology import SentinelSet
from tests.support.checker import text_of
from tests.support.cli import run_berlin
from tests.support.fleet import Fleet, prompt
from tests.support.needed import needed
from tests.support.sentinel import has_caught_up, kill_primary
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def sentinels() -> Iterator[SentinelSet]:
    with SentinelSet(needed(find_server(), "redis-server or valkey-server")) as running:
        yield running


@pytest.fixture
def fleet(fleet: Fleet, sentinels: SentinelSet) -> Iterator[Fleet]:
    """The fleet of the other tests; its producer uses the Sentinels as any Celery producer does.

    The first Sentinel in the URL of workers and clients is dead.
    """
    ports = [free_port(), *(sentinel.port for sentinel in sentinels.sentinels)]
    listed = ";".join(f"sentinel://127.0.0.1:{port}/0" for port in ports)
    fleet.env["CELERY_BROKER_URL"] = f"{listed}?master_name={sentinels.name}"
    with Celery(broker=f"sentinel://127.0.0.1:{ports[1]}/0", set_as_current=False) as fleet.app:
        fleet.app.conf.broker_transport_options = {"master_name": sentinels.name}
        yield fleet


def test_jobs_of_a_bare_producer_and_of_the_client_stream(fleet):
    broker_url = fleet.env["CELERY_BROKER_URL"]
    with fleet.worker(), Client(fleet.env["REDIS_URL"], broker_url) as client:
        assert text_of(fleet.ended(fleet.send(prompt("bare")))) == "echo of bare"
        assert client.result(client.submit("client")).text == "echo of client"


def test_other_app_in_a_process_with_ours_keeps_its_own_sentinel_options(fleet, monkeypatch):
    ours = "berlin_worker.broker.transport:SentinelTransport"
    monkeypatch.setitem(TRANSPORT_ALIASES, "sentinel", ours)
    with fleet.worker():
        assert text_of(fleet.ended(fleet.send(prompt("bare")))) == "echo of bare"


def test_stream_goes_on_through_a_failover_and_so_does_the_queue(fleet, sentinels):
    client = Client(fleet.env["REDIS_URL"], fleet.env["CELERY_BROKER_URL"])
    with client, fleet.worker("-c", "2") as worker:
        running = [fleet.send(prompt(f"[[delay:1]] run {n} a b c d")) for n in range(2)]
        for job_id in running:
            fleet.running(job_id)
        waiting = [fleet.send(prompt(f"wait {n}")) for n in range(4)] + [client.submit("wait")]
        wait_until(lambda: has_caught_up(sentinels), "the replica has it all")
        kill_primary(sentinels)
        after = [fleet.send(prompt("after it")), client.submit("after it")]
        for job_id in [*running, *waiting, *after]:
            events = fleet.ended(job_id)
            assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
            assert (events[-1]["type"], events[-1]["attempt"]) == ("completed", 1)
        assert worker.stop() == 0


def test_doctor_and_top_ask_the_primary_that_the_sentinels_name(fleet, sentinels):
    def berlin(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return run_berlin(*arguments, env=os.environ | fleet.env | changed)

    fleet.send(prompt("waits"))
    assert json.loads(berlin("top", "--once", "--json").stdout)["waiting"] == 1
    shown = f",127.0.0.1:{sentinels.sentinels[2].port}/mymaster/0"
    assert shown in berlin("doctor", "--no-login").stdout
    other = fleet.env["CELERY_BROKER_URL"].replace("mymaster", "nobody")
    doctor = berlin("doctor", "--no-login", CELERY_BROKER_URL=other)
    assert doctor.returncode == 1
    assert "none of 4 Sentinels names a primary 'nobody'" in doctor.stdout
