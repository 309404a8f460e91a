"""Failovers and moved slots of a cluster, under streams and readers; the queue is elsewhere.

Replication is asynchronous: what a replica lacks when it is promoted is lost. Then streams go
back to where it stands, by a reset, and a reader that has seen more gets ``CursorExpired``.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from berlin_schemas import names
from berlin_worker.embedded.redis_server import find_server, find_servers
from berlin_worker.embedded.topology import Cluster
from tests.support.chaos import Environment, begun, size
from tests.support.cluster import (
    fail_over,
    is_down,
    kill_primary,
    move_slots,
    move_slots_atomically,
    moves_atomically,
    primaries,
    proxied,
    replica_of,
    stopped,
    take_out,
    used_slots,
    wait_until_served,
)
from tests.support.needed import needed
from tests.support.workers import wait_until


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    with Cluster(needed(find_server(), "redis-server or valkey-server")) as running:
        yield running


@pytest.fixture
def site(make_site, make_redis, nodes) -> Environment:
    return make_site(nodes.url, broker_url=make_redis().url, reread=True)


def probe(site: Environment) -> float:
    """Submit a job; return the seconds until it is done."""
    began = time.monotonic()
    job_id = site.submit(chunks=1, how="bare")
    wait_until(lambda: job_id not in site.history.unfinished, "a worker that takes jobs")
    return time.monotonic() - began


@pytest.mark.parametrize("change", [kill_primary, fail_over])
def test_streams_and_readers_go_on_after_a_failover(site, nodes, report, change):
    streams = size(20, 200)
    with two_workers(site, streams):
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
    report(name[change], figures, note=note)
    assert site.history.expired <= figures.resets


def two_workers(site: Environment, streams: int) -> ExitStack:
    """Start two workers, each with room for more than half of the streams."""
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(site.worker("-c", str(streams // 2 + 4)))
        return stack.pop_all()


@pytest.mark.parametrize("how", ["MIGRATE", "CLUSTER MIGRATESLOTS"])
def test_slots_that_move_under_load_lose_nothing(make_site, make_redis, report, how):
    atomic = how != "MIGRATE"
    able = [binary for binary in find_servers() if not atomic or moves_atomically(binary)]
    streams = size(20, 200)
    with ExitStack() as stack:
        nodes = stack.enter_context(Cluster(needed(able and able[0], f"a server with {how}")))
        site = make_site(nodes.url, broker_url=make_redis().url, reread=True)
        stack.enter_context(two_workers(site, streams))
        slots = used_slots(nodes, begun(site, streams))
        site.history.fault()
        (move_slots_atomically if atomic else move_slots)(nodes, slots)
        back_s = probe(site)
        figures = site.history.check()
    note = f"{streams} streams, {len(slots)} slots with jobs moved; then a job in {back_s:.1f} s"
    report(f"slots moved by {how}", figures, note=note)
    assert site.history.expired == figures.resets == 0


def test_node_that_joins_and_leaves_under_load_loses_nothing(site, nodes, report):
    streams = size(20, 200)
    with two_workers(site, streams):
        slots = used_slots(nodes, begun(site, streams))
        site.history.fault()
        node = nodes.add()
        move_slots(nodes, slots, node)
        joined_s = probe(site)
        move_slots(nodes, slots, primaries(nodes)[0])
        take_out(nodes, node)
        back_s = probe(site)
        # The search that removes index entries without a job has forgotten the node, too.
        entries = {names.due_key(job_id): job_id for job_id in map(str, range(1000))}
        for key, job_id in entries.items():
            site.redis.zadd(key, {job_id: 0})
        wait_until(
            lambda: all(site.redis.zscore(*entry) is None for entry in entries.items()),
            "index entries without a job are removed",
        )
        figures = site.history.check()
    note = (
        f"{streams} streams, {len(slots)} slots with jobs moved to it and back; "
        f"then a job in {joined_s:.1f} and {back_s:.1f} s"
    )
    report("a node added, and taken out", figures, note=note)
    assert site.history.expired == figures.resets == 0


def test_cluster_that_is_down_for_5_s_loses_nothing(site, nodes, report):
    streams = size(20, 200)
    with two_workers(site, streams):
        begun(site, streams)
        down = primaries(nodes)[1:]
        down += [replica_of(nodes, each) for each in down]
        site.history.fault()
        with stopped(down):
            wait_until(lambda: is_down(nodes.servers[0]), "the last primary notices it")
            time.sleep(5)
        wait_until_served(nodes)
        back_s = probe(site)
        figures = site.history.check()
    note = f"{streams} streams; then a job in {back_s:.1f} s; {figures.resets} streams began anew"
    report("CLUSTERDOWN for 5 s", figures, note=note)
    assert site.history.expired == 0


def test_node_that_only_clients_cannot_reach_loses_nothing(make_site, make_redis, nodes, report):
    streams = size(20, 200)
    with proxied(nodes) as proxy:
        site = make_site(nodes.url, broker_url=make_redis().url, reread=True)
        with two_workers(site, streams):
            begun(site, streams)
            site.history.fault()
            proxy.blackhole()
            time.sleep(size(8, 20))
            proxy.heal()
            site.redis.disconnect_connection_pools()  # its connections are half open, too
            back_s = probe(site)
            figures = site.history.check()
    note = (
        f"{streams} streams, for {size(8, 20)} s; then a job in {back_s:.1f} s; "
        f"{figures.resets} streams began anew"
    )
    report("a node cut off from workers and clients", figures, note=note)
    assert site.history.expired == 0
