"""Replicas that start and stop under load, and the queue as an autoscaler counts it."""

import os
import urllib.request
from collections.abc import Iterator

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from berlin_worker.embedded.redis_server import free_port
from tests.support.chaos import Environment
from tests.support.fork_server import run_python
from tests.support.manifests import DEPLOY, one, rendered
from tests.support.upstream_process import UpstreamProcess
from tests.support.workers import ROOT, WorkerProcess, wait_until

pytestmark = pytest.mark.integration

SLOTS = 10
COUNT = """
local count = {list = 'llen', hash = 'hlen', zset = 'zcard', none = 'llen'}
return redis.call(count[redis.call('type', KEYS[1]).ok], KEYS[1])
"""
"""How KEDA's trigger counts a key of any type."""


class Replica:
    """A worker in a process of its own and its metrics."""

    def __init__(self, environment: Environment) -> None:
        self._port = free_port()
        self.process: WorkerProcess = environment.worker(
            "-c", f"{SLOTS}", WORKER_HTTP_PORT=f"{self._port}", WORKER_DRAIN_TIMEOUT_S="1"
        )

    def value_of(self, name: str, **labels: str) -> int:
        """Return the sum of all samples of a metric."""
        url = f"http://127.0.0.1:{self._port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        return sum(
            int(sample.value)
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@pytest.fixture
def environment(real_redis_url: str) -> Iterator[Environment]:
    with UpstreamProcess() as upstream, Environment(real_redis_url, upstream) as environment:
        yield environment


@pytest.fixture
def replicas(environment) -> Iterator[list[Replica]]:
    """Yield four replicas that are not started yet."""
    made = [Replica(environment) for _ in range(4)]
    try:
        yield made
    finally:
        for replica in made:
            if replica.process._process is not None:
                replica.process.kill()


def counted(client: redis.Redis) -> int:
    """Return the number of jobs that the ScaledObject counts: the sum of its two triggers."""
    scaled = one(rendered(DEPLOY / "kubernetes" / "overlays" / "keda"), "ScaledObject")["spec"]
    assert scaled["advanced"]["scalingModifiers"]["formula"] == "queued + running"
    keys = [trigger["metadata"]["listName"] for trigger in scaled["triggers"]]
    return sum(int(client.eval(COUNT, 1, key)) for key in keys)


def submit(environment: Environment, jobs: int) -> None:
    for n in range(jobs):
        how = "client" if n % 2 else "bare"
        environment.submit(None, "[[delay:0.1]]", chunks=50, how=how, follow=n % 10 == 0)


def test_every_job_ends_once_while_replicas_start_and_stop(environment, replicas):
    *running, added = replicas
    leaving, *staying = running
    submit(environment, 5)
    assert counted(environment.redis) == 5, "what has no worker yet is counted"
    for replica in running:
        replica.process.start(wait=False)
    for replica in running:
        replica.process.wait_for_log(" ready.")
    submit(environment, 3 * SLOTS + 2)
    wait_until(
        lambda: [each.value_of("worker_jobs_in_flight") for each in running] == [SLOTS] * 3,
        "the jobs are spread over all",
    )
    wait_until(
        lambda: counted(environment.redis) == len(environment.history.unfinished) > 0,
        "all are counted",
    )

    assert leaving.process.stop() == 0
    added.process.start()
    submit(environment, 3 * SLOTS + 2)  # more than the others could take
    wait_until(
        lambda: counted(environment.redis) == len(environment.history.unfinished) > 0,
        "all are counted",
    )
    wait_until(lambda: added.value_of("worker_jobs_in_flight") > 0, "the new one has work")

    figures = environment.history.check()
    assert figures.problems == ()
    assert figures.jobs == 69
    assert figures.resets > 0, "the replica that stopped requeued its jobs"
    ended = [each.value_of("worker_jobs_total", outcome="completed") for each in (*staying, added)]
    assert all(ended)
    assert sum(ended) <= 69
    wait_until(lambda: counted(environment.redis) == 0, "there is nothing to do")
    asked = run_python(
        ["-m", "celery", "-A", "berlin_worker", "inspect", "ping"],
        env=os.environ | environment.env | {"PYTHONPATH": str(ROOT)}, cwd=ROOT,
    )  # fmt: skip
    assert "pong" in asked.stdout
    assert counted(environment.redis) == 0, "replies of workers are no jobs"
