"""Failovers and moved slots of a cluster, under streams and readers; the queue is elsewhere.

Replication is asynchronous: what a replica lacks when it is promoted is lost. Then streams go
back to where it stands, by a reset, and a reader that has seen more gets ``CursorExpired``.
"""

import time
from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from berlin_schemas import names
from berlin_worker.embedded.redis_server import find_server
from berlin_worker.embedded.topology import Cluster
from tests.support.chaos import Environment, size
from tests.support.cluster import fail_over, kill_primary, move_slots, slots_of_first
from tests.support.needed import needed
from tests.support.workers import wait_until

SLOW = "[[delay:0.1]]"


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    with Cluster(needed(find_server(), "redis-server or valkey-server")) as running:
        yield running


@pytest.fixture
def site(make_site, make_redis, nodes) -> Environment:
    return make_site(nodes.url, broker_url=make_redis().url, reread=True)


def begun(site: Environment, streams: int) -> list[str]:
    """Jobs that stream, half of them with a reader, and as many that wait."""
    job_ids = [
        site.submit(
            None, SLOW, chunks=size(80, 120), follow=n % 2 == 0, how=("client", "bare")[n % 2]
        )
        for n in range(streams)
    ]
    wait_until(lambda: site.streaming(job_ids), "all stream")
    for n in range(streams):
        site.submit(None, how=("client", "bare")[n % 2])
    return job_ids


def probe(site: Environment) -> float:
    """Seconds until a job that is submitted now is done."""
    began = time.monotonic()
    job_id = site.submit(chunks=1, how="bare")
    wait_until(lambda: job_id not in site.history.unfinished, "a worker that takes jobs")
    return time.monotonic() - began


@pytest.mark.parametrize("change", [kill_primary, fail_over])
def test_streams_and_readers_go_on_after_a_failover(site, nodes, report, change):
    streams = size(20, 200)
    slots = str(streams // 2 + 4)
    with site.worker("-c", slots), site.worker("-c", slots):
        begun(site, streams)
        site.history.fault()
        change(nodes)
        back_s = probe(site)
        figures = site.history.check()
    name = {kill_primary: "primary killed, replica promoted", fail_over: "CLUSTER FAILOVER"}
    note = (
        f"{streams} streams; a job after it in {back_s:.1f} s; {figures.resets} streams went back "
        f"to what was replicated; {site.history.expired} of {streams // 2} readers got an error"
    )
    report(f"Cluster: {name[change]}", figures, note=note)
    assert site.history.expired <= figures.resets


def test_slots_that_move_under_load_lose_nothing(site, nodes, report):
    streams = size(20, 200)
    slots = str(streams // 2 + 4)
    with site.worker("-c", slots), site.worker("-c", slots):
        job_ids = begun(site, streams)
        site.history.fault()
        first = slots_of_first(nodes)
        moving = sorted(first & {key_slot(names.log_key(job_id).encode()) for job_id in job_ids})
        move_slots(nodes, moving)
        back_s = probe(site)
        figures = site.history.check()
    note = f"{streams} streams, {len(moving)} slots with jobs moved; then a job in {back_s:.1f} s"
    report("Cluster: slots moved by MIGRATE", figures, note=note)
    assert site.history.expired == figures.resets == 0
