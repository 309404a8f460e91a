"""A failover behind one address, from a primary to its replica, with jobs queued and in flight.

Replication is asynchronous: what the replica has when it is promoted is all there is.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import redis

from berlin_worker.client import CursorExpired
from berlin_worker.embedded.redis_server import RedisProcess
from tests.support.chaos import Environment, size
from tests.support.proxy import TcpProxy
from tests.support.replication import caught_up
from tests.support.workers import wait_until

SLOW = "[[delay:0.1]]"


@dataclass
class Pair:
    """Two servers, and the address by which workers and clients reach the primary."""

    primary: RedisProcess
    replica: RedisProcess
    address: TcpProxy
    link: TcpProxy
    """The connection by which the replica follows the primary."""
    old: redis.Redis
    new: redis.Redis

    def fail_over(self) -> None:
        """Kill the primary, promote the replica, and let the address lead there."""
        self.primary.kill()
        self.new.replicaof("NO", "ONE")
        self.address.lead_to(self.replica.url)


@pytest.fixture
def pair(make_redis) -> Iterator[Pair]:
    primary, replica = (make_redis(**{"repl-diskless-sync-delay": "0"}) for _ in range(2))
    with ExitStack() as stack:
        address, link = (stack.enter_context(TcpProxy.of(primary.url)) for _ in range(2))
        old, new = (
            stack.enter_context(redis.Redis.from_url(server.url)) for server in (primary, replica)
        )
        new.replicaof("127.0.0.1", link.port)
        made = Pair(primary, replica, address, link, old, new)
        wait_until(lambda: caught_up(old, new), "the replica follows")
        yield made


def begun(site: Environment, count: int, *, chunks: int, follow: bool = False) -> list[str]:
    """Submit jobs; return their IDs once all stream."""
    job_ids = [site.submit(None, SLOW, chunks=chunks, follow=follow) for _ in range(count)]
    wait_until(lambda: site.streaming(job_ids), "all stream")
    return job_ids


def test_all_that_was_replicated_ends_once_and_right_after_a_failover(make_site, pair, report):
    """Before the failover the primary takes no more writes, so its replica catches up."""
    streams = size(20, 200)
    site = make_site(pair.address.url_of(pair.primary.url))
    with site.worker("-c", str(streams)), site.worker("-c", str(streams)):
        # Two end soon, so that there is room for those that wait.
        begun(site, 2 * streams - 2, chunks=80, follow=True)
        begun(site, 2, chunks=20)
        for n in range(streams):  # these wait
            site.submit(None, how=("client", "bare")[n % 2])
        pair.old.client_pause(60_000, all=False)
        wait_until(lambda: caught_up(pair.old, pair.new), "the replica has it all")
        site.history.fault()
        pair.fail_over()
        began = time.monotonic()
        probe = site.submit(chunks=1)
        wait_until(lambda: probe not in site.history.unfinished, "a worker that takes jobs")
        back_s = time.monotonic() - began
        figures = site.history.check()
    again = figures.attempts - figures.jobs
    note = f"{2 * streams} streams; consuming again in {back_s:.1f} s; {again} second calls"
    report("failover to a replica that has it all", figures, note=note)


def test_failover_loses_only_writes_that_were_not_replicated(make_site, pair, report):
    """The replica lags when the primary dies: each stream restarts with a ``reset``."""
    streams = size(10, 100)
    site = make_site(pair.address.url_of(pair.primary.url))
    with site.worker("-c", str(streams)), site.worker("-c", str(streams)):
        job_ids = begun(site, streams, chunks=40)
        wait_until(lambda: caught_up(pair.old, pair.new), "the replica has it all")
        reading = site.client.stream(job_ids[0])
        next(reading)
        pair.link.blackhole()
        written = pair.old.info("replication")["master_repl_offset"]
        late = [site.client.submit("accepted, and then lost") for _ in range(10)]
        wait_until(lambda: site.streaming(job_ids, 20), "they stream on")
        assert pair.new.info("replication")["slave_repl_offset"] <= written
        site.history.fault()
        pair.fail_over()
        with pytest.raises(CursorExpired, match="has lost events"):
            list(reading)
        figures = site.history.check()
        lost = [job_id for job_id in late if site.client.status(job_id).status == "unknown"]
    note = f"{len(lost)} of {len(late)} accepted after the replica had fallen behind are lost"
    report("failover to a replica that lags", figures, note=note)
    assert figures.resets == streams
    assert len(lost) == len(late)
