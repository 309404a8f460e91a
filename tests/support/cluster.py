"""Faults of a :class:`~berlin_worker.embedded.topology.Cluster`."""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import redis

from berlin_worker.embedded.topology import Cluster, Member
from tests.support.workers import wait_until


def primaries(cluster: Cluster) -> list[Member]:
    """The living servers that have slots, in the order of these."""
    ports = {server.public_port: server for server in cluster.servers}
    found: Any = None
    for server in cluster.servers:
        if server.pid is not None and found is None:
            with server.client() as client, contextlib.suppress(redis.RedisError):
                found = client.execute_command("CLUSTER SLOTS")
    named = dict.fromkeys(int(entry[2][1]) for entry in sorted(found, key=lambda entry: entry[0]))
    return [ports[port] for port in named]


def role(server: Member) -> str:
    """``master`` or ``slave``, or nothing while it does not answer."""
    try:
        with server.client() as client:
            return str(client.info("replication")["role"])
    except redis.RedisError:
        return ""


def replica_of(cluster: Cluster, primary: Member) -> Member:
    """The server that follows ``primary``."""
    for server in cluster.servers:
        with contextlib.suppress(redis.RedisError), server.client() as client:
            found: Any = client.info("replication")
            if found["role"] == "slave" and found["master_port"] == primary.public_port:
                return server
    raise LookupError("no replica")


def fail_over(cluster: Cluster) -> None:
    """CLUSTER FAILOVER at the replica of the first primary, and wait until it is done."""
    former = primaries(cluster)[0]
    replica = replica_of(cluster, former)
    with replica.client() as client:
        client.execute_command("CLUSTER FAILOVER")
    wait_until(lambda: role(replica) == "master", "the replica is the primary")
    wait_until(lambda: role(former) == "slave", "the former primary follows")


def kill_primary(cluster: Cluster) -> None:
    """SIGKILL to the first primary, and wait until its replica is promoted."""
    former = primaries(cluster)[0]
    replica = replica_of(cluster, former)
    former.kill()
    wait_until(lambda: role(replica) == "master", "the replica is promoted")
    wait_until(lambda: all(map(_serves, cluster.servers)), "all nodes that live know it")


def _serves(server: Member) -> bool:
    if server.pid is None:
        return True
    with server.client() as client:
        found: Any = client.execute_command("CLUSTER INFO")
    return bool(found["cluster_state"] == "ok")


def slots_of_first(cluster: Cluster) -> set[int]:
    """The slots of the first primary."""
    first = primaries(cluster)[0]
    with first.client() as client:
        found: Any = client.execute_command("CLUSTER SLOTS")
    ranges = [range(low, high + 1) for low, high, (_, port, *_), *_ in found if port == first.port]
    return {slot for each in ranges for slot in each}


@contextlib.contextmanager
def half_moved(cluster: Cluster, slot: int) -> Iterator[None]:
    """A slot of the first primary that moves to the second: its keys follow after the block."""
    source, target, *others = primaries(cluster)
    with contextlib.ExitStack() as stack:
        from_, to, *rest = (
            stack.enter_context(server.client()) for server in (source, target, *others)
        )
        source_id, target_id = (client.execute_command("CLUSTER MYID") for client in (from_, to))
        to.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
        from_.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
        yield
        while keys := from_.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
            from_.execute_command(
                *("MIGRATE", "127.0.0.1", target.public_port, "", 0, 5000, "KEYS", *keys)
            )
        for client in (to, from_, *rest):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)


def move_slots(cluster: Cluster, slots: Iterable[int]) -> None:
    """Move slots of the first primary to the second one, key by key, as ``redis-cli`` does."""
    for slot in slots:
        with half_moved(cluster, slot):
            pass


@contextlib.contextmanager
def stopped(cluster: Cluster) -> Iterator[None]:
    """Stop the first primary by SIGSTOP; none is promoted in its place, and the others serve."""
    former = primaries(cluster)[0]
    others = [server for server in cluster.servers if server is not former]
    assert former.pid is not None
    configure(others, {"cluster-replica-no-failover": "yes", "cluster-require-full-coverage": "no"})
    os.kill(former.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(former.pid, signal.SIGCONT)
        configure(
            others, {"cluster-replica-no-failover": "no", "cluster-require-full-coverage": "yes"}
        )
        wait_until(lambda: all(map(_serves, cluster.servers)), "all nodes serve again")


def configure(servers: Iterable[Member], options: dict[str, str]) -> None:
    """Set options of servers."""
    for server in servers:
        with server.client() as client:
            for name, value in options.items():
                client.config_set(name, value)
