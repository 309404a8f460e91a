"""Redis or the network fails: streams in flight go on, and each job ends once and right."""

import time
from collections.abc import Iterable

import pytest
import redis

from tests.support.chaos import Environment, size
from tests.support.proxy import TcpProxy
from tests.support.workers import VERBOSE, WorkerProcess, wait_until

SLOW = "[[delay:0.1]]"


def streaming(site: Environment, count: int, *, chunks: int = 150) -> list[str]:
    """Submit jobs; return their IDs once all stream. Some have a live reader."""
    job_ids = [
        site.submit(None, SLOW, chunks=chunks, follow=n % 10 == 0, how=("client", "bare")[n % 2])
        for n in range(count)
    ]
    wait_until(lambda: site.streaming(job_ids), "all stream")
    return job_ids


def seconds_until_consuming(site: Environment) -> float:
    """Submit a job; return the seconds until it has ended."""
    began = time.monotonic()
    probe = site.submit(chunks=1)
    wait_until(lambda: probe not in site.history.unfinished, "a worker that takes jobs")
    return time.monotonic() - began


def takes_as_many_as_it_may(site: Environment, slots: int) -> None:
    """Submit more jobs than there are slots: each slot takes one, the rest stays in the queue."""
    job_ids = [site.client.submit(f"[[endless]] {SLOW} on and on") for _ in range(slots + 3)]
    wait_until(lambda: site.upstream.ask("open_streams") == slots, f"{slots} streams")
    assert site.broker.llen("prompts") == 3
    for job_id in job_ids:
        site.client.cancel(job_id)
    wait_until(lambda: not site.upstream.ask("open_streams"), "their end")


def all_live(workers: Iterable[WorkerProcess]) -> bool:
    return all(worker.process.poll() is None for worker in workers)


def test_connections_cut_a_hundred_times_cost_no_second_call(site, report):
    cuts, streams = 100, size(40, 200)
    servers = [*site.nodes, *([] if site.broker is site.redis else [site.broker])]
    mine = [ids(server) for server in servers]
    with site.worker("-c", str(streams)) as worker:
        job_ids = streaming(site, streams, chunks=size(180, 400))
        cut = 0
        while cut < cuts:
            for server, known in zip(servers, mine, strict=True):
                theirs = ids(server) - known
                cut += sum(server.client_kill_filter(_id=each) for each in theirs)
            time.sleep(0.1)  # so that the next cut hits the new connections
        assert site.history.unfinished == job_ids, "the cuts came too late"
        figures = site.history.check()
        calls = site.upstream.ask("completion_calls")
        takes_as_many_as_it_may(site, streams)
        assert all_live([worker])
        assert "is dropped" not in worker.log
    report(
        "connections to Redis cut (CLIENT KILL)",
        figures,
        runs=cut,
        note=f"{calls - streams} second calls",
    )
    assert calls == streams


def ids(server: redis.Redis) -> set[str]:
    """Return the connections of a server."""
    return {client["id"] for client in server.client_list()}


@pytest.mark.parametrize(
    "outage", [(3, 1, 30), (3, 3, 0), (10, 3, 60)], ids=lambda outage: "-".join(map(str, outage))
)
def test_redis_that_is_killed_and_comes_back_is_found_again(make_redis, make_site, report, outage):
    """Redis logs every write to disk; ten seconds are longer than a lease."""
    down_s, replicas, streams = outage
    server = make_redis(appendonly="yes", appendfsync="always")
    site = make_site(server.url)
    slots = streams // replicas + 10
    workers = [site.worker("-c", str(slots)) for _ in range(replicas)]
    try:
        for worker in workers:
            worker.start()
        streaming(site, streams, chunks=size(50 + 10 * down_s, 150))
        server.kill()
        site.history.fault()
        time.sleep(down_s)
        server.start()
        back_s = seconds_until_consuming(site)
        figures = site.history.check()
        assert all_live(workers)
        calls = site.upstream.ask("completion_calls") - streams - 1
        takes_as_many_as_it_may(site, slots * replicas)
    finally:
        for worker in workers:
            worker.kill()
    note = f"consuming again in {back_s:.1f} s; {calls} second calls"
    report(
        f"Redis killed for {down_s} s, {replicas} workers, {streams} streams", figures, note=note
    )
    assert back_s < size(60, 10)


@pytest.mark.parametrize("half_open", ["both", "broker", "events"])
def test_worker_behind_a_half_open_connection_comes_back(make_redis, make_site, report, half_open):
    """The old connections stay dead for ever. Another worker takes the jobs meanwhile."""
    server = make_redis()
    direct = {"REDIS_URL": server.url, "CELERY_BROKER_URL": server.url}
    with TcpProxy.of(server.url) as events, TcpProxy.of(server.url) as broker:
        by_proxy = {"CELERY_BROKER_URL": broker.url_of(server.url)}
        site = make_site(server.url, worker_url=events.url_of(server.url), **by_proxy)
        with site.worker("-c", "50", *VERBOSE) as cut_off:
            long = streaming(site, 10, chunks=size(100, 150))
            # These jobs end during the fault: their acknowledgements cannot be sent.
            short = streaming(site, 20, chunks=30)
            with site.worker("-c", "50", **direct) as other:
                site.history.fault()
                dead = {"both": (events, broker), "broker": (broker,), "events": (events,)}
                for proxy in dead[half_open]:
                    proxy.blackhole()
                if half_open == "broker":
                    time.sleep(12)  # longer than its messages are held for it
                    assert not set(short) & set(site.history.unfinished)
                else:
                    wait_until(lambda: taken_over(site, long), "all taken over", 60)
                    # The cut-off worker may still reach the broker: it must not hold messages that
                    # it cannot begin.
                    new = {site.submit(chunks=1) for _ in range(20)}
                    wait_until(lambda: not new & set(site.history.unfinished), "new jobs run", 60)
                events.heal()
                broker.heal()
                back_s = seconds_until_receiving(site, cut_off)
                figures = site.history.check()
                second_calls = figures.attempts - figures.jobs
                assert all_live([cut_off, other])
            takes_as_many_as_it_may(site, 50)
    note = f"consuming again in {back_s:.1f} s; {second_calls} second calls"
    report(f"half-open connections to Redis ({half_open})", figures, note=note)
    assert back_s < size(60, 20)
    if half_open == "broker":
        assert second_calls == 0


def seconds_until_receiving(site: Environment, worker: WorkerProcess) -> float:
    """Submit jobs until this worker, of several, receives one; return the seconds."""
    began = time.monotonic()
    received = worker.log.count("] received")

    def receives() -> bool:
        site.submit(chunks=1)
        time.sleep(0.1)
        return worker.log.count("] received") > received

    wait_until(receives, "the worker takes jobs", 60)
    return time.monotonic() - began


def taken_over(site: Environment, job_ids: Iterable[str]) -> bool:
    """Return whether each of the jobs is at its second attempt, or a later one."""
    return all(int(site.redis.hget(f"job:{{{each}}}:state", "attempt")) > 1 for each in job_ids)
