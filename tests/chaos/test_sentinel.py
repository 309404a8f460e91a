"""Failovers by Sentinels, under streams and readers; queue and events are on the same servers.

Replication is asynchronous: what the replica lacks when it is promoted is lost. Then streams go
back to where it stands, by a reset, and a reader that has seen more gets ``CursorExpired``.
"""

import contextlib
import time
from collections.abc import Iterator

import pytest

from berlin_schemas import names
from berlin_worker.client import Unavailable
from berlin_worker.embedded.redis_server import find_server
from berlin_worker.embedded.topology import Member, SentinelSet
from tests.support.chaos import FULL, Environment, begun, in_background, size
from tests.support.needed import needed
from tests.support.sentinel import (
    bring_back,
    cut_off_replica,
    fail_over,
    has_caught_up,
    kill_primary,
)
from tests.support.workers import wait_until


@pytest.fixture
def sentinels() -> Iterator[SentinelSet]:
    with SentinelSet(needed(find_server(), "redis-server or valkey-server")) as running:
        yield running


@pytest.fixture
def site(make_site, sentinels) -> Environment:
    return make_site(sentinels.url, reread=True)


def replicated(site: Environment, sentinels: SentinelSet, streams: int) -> list[str]:
    """Return jobs of :func:`begun` once the replica has all that they have written."""
    job_ids = begun(site, streams)
    wait_until(lambda: has_caught_up(sentinels), "the replica has it all")
    return job_ids


def probe(site: Environment) -> float:
    """Return the seconds until a new job is accepted and done."""
    began = time.monotonic()
    job_id = ""
    while not job_id:
        with contextlib.suppress(Unavailable):  # no server is the primary yet
            job_id = site.submit(chunks=1)
    wait_until(lambda: job_id not in site.history.unfinished, "a worker that takes jobs")
    return time.monotonic() - began


@pytest.mark.parametrize("change", [kill_primary, fail_over])
def test_streams_readers_and_queue_go_on_after_a_failover(site, sentinels, report, change):
    streams = size(20, 200)
    slots = str(streams // 2 + 4)
    with site.worker("-c", slots), site.worker("-c", slots):
        replicated(site, sentinels, streams)
        site.history.fault()
        former = change(sentinels)
        back_s = probe(site)
        if change is kill_primary:
            with in_background(lambda: bring_back(sentinels, former)):
                figures = site.history.check()
        else:
            figures = site.history.check()
    name = {kill_primary: "primary killed, replica promoted", fail_over: "SENTINEL FAILOVER"}
    note = (
        f"{streams} streams; a job after it in {back_s:.1f} s; {figures.resets} streams went back "
        f"to what was replicated; {site.history.expired} of {streams // 2} readers got an error"
    )
    report(name[change], figures, note=note)
    assert site.history.expired <= figures.resets


def test_dead_sentinel_stops_nobody(site, sentinels, report):
    streams = size(10, 100)
    with site.worker("-c", str(streams)):
        replicated(site, sentinels, streams)
        site.history.fault()
        sentinels.sentinels[0].kill()
        with site.worker("-c", str(streams)) as late:
            assert late.process.poll() is None
            fail_over(sentinels)
            back_s = probe(site)
            figures = site.history.check()
    note = f"{streams} streams; then SENTINEL FAILOVER by the two others: {back_s:.1f} s"
    report("one of three Sentinels dead", figures, note=note)


def published(server: Member, job_ids: list[str]) -> int:
    """Return how many events of the jobs a server has."""
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for job_id in job_ids:
            pipeline.xlen(names.log_key(job_id))
        return sum(pipeline.execute())


@pytest.mark.parametrize("in_sync", [0, 1] if FULL else [0])
def test_what_a_promoted_replica_lacks_is_an_error_to_its_readers(site, sentinels, report, in_sync):
    """The replica lacks 2 s of events. ``min-replicas-to-write`` refuses them at the primary."""
    streams = size(20, 200)
    for server in sentinels.servers:
        with server.client() as client:
            client.config_set("min-replicas-to-write", in_sync)
            client.config_set("min-replicas-max-lag", 1)
    slots = str(streams // 2 + 4)
    with site.worker("-c", slots), site.worker("-c", slots):
        job_ids = replicated(site, sentinels, streams)
        with cut_off_replica(sentinels) as replica:
            former = sentinels.primary()
            begins = published(former, job_ids)
            time.sleep(2)
            more = published(former, job_ids) - begins
            site.history.fault()
        with replica.client() as client:  # it has no replica itself until the other is back
            client.config_set("min-replicas-to-write", 0)
        back_s = probe(site)
        figures = site.history.check()
    note = (
        f"{streams} streams; a job after it in {back_s:.1f} s; {more} events that the primary had "
        f"acknowledged are lost; {figures.resets} streams went back to what was replicated; "
        f"{site.history.expired} of {streams // 2} readers got an error"
    )
    fault = f"replica behind by 2 s promoted, min-replicas-to-write {in_sync}"
    report(fault, figures, note=note)
    assert (more == 0) == bool(in_sync)
    assert site.history.expired <= figures.resets
    assert (site.history.expired == 0) == bool(in_sync)
