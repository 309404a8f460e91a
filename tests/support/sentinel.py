"""Failovers of a :class:`~berlin_worker.embedded.topology.SentinelSet`."""

import contextlib
import os
import signal
from collections.abc import Iterator

import redis

from berlin_worker.embedded.topology import Member, SentinelSet
from tests.support.replication import caught_up
from tests.support.workers import wait_until


def replica_of(sentinels: SentinelSet) -> Member:
    """Return the server that is not the primary."""
    [replica] = (server for server in sentinels.servers if server is not sentinels.primary())
    return replica


def has_caught_up(sentinels: SentinelSet) -> bool:
    """Return whether the replica has all that the primary has written."""
    with sentinels.primary().client() as primary, replica_of(sentinels).client() as replica:
        return caught_up(primary, replica)


def fail_over(sentinels: SentinelSet) -> Member:
    """Order SENTINEL FAILOVER; return the former primary once it follows the new one."""
    former = sentinels.primary()
    wait_until(lambda: has_caught_up(sentinels), "the replica has it all")
    wait_until(lambda: _is_taken(sentinels), "a Sentinel takes the command")
    wait_until(lambda: sentinels.primary() is not former, "the replica is promoted")
    wait_until(lambda: _follows(sentinels), "the former primary follows")
    return former


def kill_primary(sentinels: SentinelSet) -> Member:
    """Send SIGKILL to the primary; return it once the replica is promoted."""
    former = sentinels.primary()
    former.kill()
    wait_until(lambda: sentinels.primary() is not former, "the replica is promoted")
    return former


@contextlib.contextmanager
def cut_off_replica(sentinels: SentinelSet) -> Iterator[Member]:
    """Yield a replica that receives nothing any more, and kill the primary after the block.

    At the end the replica is promoted. It lacks all that was written in the block.
    """
    former, replica = sentinels.primary(), replica_of(sentinels)
    assert replica.pid is not None
    os.kill(replica.pid, signal.SIGSTOP)
    try:
        with former.client() as client:  # else the replica would read later what is on its way
            client.client_kill_filter(_type="replica")
        yield replica
        former.kill()
    finally:
        os.kill(replica.pid, signal.SIGCONT)
    wait_until(lambda: sentinels.primary() is replica, "the replica is promoted")


def bring_back(sentinels: SentinelSet, former: Member) -> None:
    """Start a server that was killed, and wait until it follows the primary."""
    former.start()
    wait_until(lambda: _follows(sentinels), "the former primary follows")


def _is_taken(sentinels: SentinelSet) -> bool:
    try:
        [living, *_] = (each for each in sentinels.sentinels if each.pid is not None)
        with living.client() as client:
            client.sentinel_failover(sentinels.name)
    except redis.ResponseError:  # it does not see the replica yet, or has just failed over
        return False
    return True


def _follows(sentinels: SentinelSet) -> bool:
    try:
        return has_caught_up(sentinels)
    except redis.RedisError:
        return False
