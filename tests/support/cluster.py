"""Faults of a :class:`~berlin_worker.embedded.topology.Cluster`."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import redis
from redis.crc import key_slot

from berlin_schemas import names
from berlin_worker.embedded.redis_server import RedisProcess
from berlin_worker.embedded.topology import Cluster, Member
from tests.support.proxy import TcpProxy
from tests.support.workers import wait_until

_FAILOVER_S = 8.0
_SECOND_HOST = "127.0.0.2"


def owners(cluster: Cluster) -> dict[int, Member]:
    """Return the primary of each slot that is served, once all running nodes agree."""
    ports = wait_until(lambda: _agreed(cluster), "all nodes name the same primaries")
    members = {server.public_port: server for server in cluster.servers}
    return {slot: members[port] for slot, port in ports.items()}


def primaries(cluster: Cluster) -> list[Member]:
    """Return the servers that have slots, in the order in which the cluster lists its servers."""
    found = set(map(id, owners(cluster).values()))
    return [server for server in cluster.servers if id(server) in found]


def slots_of(cluster: Cluster, primary: Member) -> set[int]:
    """Return the slots of a server."""
    return {slot for slot, owner in owners(cluster).items() if owner is primary}


def slots_of_first(cluster: Cluster) -> set[int]:
    """Return the slots of the first primary."""
    return slots_of(cluster, primaries(cluster)[0])


def used_slots(cluster: Cluster, job_ids: Iterable[str]) -> list[int]:
    """Return the slots of jobs at one primary: the primary with the most of them."""
    by_primary: dict[int, set[int]] = {}
    owner = owners(cluster)
    for job_id in job_ids:
        slot = key_slot(names.log_key(job_id).encode())
        by_primary.setdefault(owner[slot].port, set()).add(slot)
    return sorted(max(by_primary.values(), key=len))


def role(server: Member) -> str:
    """Return ``master`` or ``slave``, or an empty string while the server does not answer."""
    try:
        with server.client() as client:
            return str(client.info("replication")["role"])
    except redis.RedisError:
        return ""


def replica_of(cluster: Cluster, primary: Member) -> Member:
    """Return the server that follows ``primary``."""
    for server in cluster.servers:
        with contextlib.suppress(redis.RedisError), server.client() as client:
            found: Any = client.info("replication")
            if found["role"] == "slave" and found["master_port"] == primary.public_port:
                return server
    raise LookupError("no replica")


def fail_over(cluster: Cluster) -> None:
    """Send CLUSTER FAILOVER to the replica of the first primary, and wait until it is done."""
    former = primaries(cluster)[0]
    replica = replica_of(cluster, former)
    wait_until(lambda: _is_taken_over(former, replica), "the replica has taken over")


def _is_taken_over(former: Member, replica: Member) -> bool:
    """Order a failover; servers abandon one after 5 s, or if the votes for it come late."""
    with replica.client() as client, contextlib.suppress(redis.ResponseError):
        client.execute_command("CLUSTER FAILOVER")  # an error: it is the primary already
    with contextlib.suppress(AssertionError):
        wait_until(
            lambda: role(replica) == "master" and role(former) == "slave",
            timeout_s=_FAILOVER_S,
        )
        return True
    return False


def kill_primary(cluster: Cluster) -> None:
    """SIGKILL to the first primary, and wait until its replica is promoted."""
    former = primaries(cluster)[0]
    replica = replica_of(cluster, former)
    former.kill()
    wait_until(lambda: role(replica) == "master", "the replica is promoted")
    wait_until_served(cluster)


def wait_until_served(cluster: Cluster) -> None:
    """Wait until all running nodes have a primary for each slot."""
    wait_until(lambda: all(map(_serves, cluster.servers)), "all nodes that live serve")


@contextlib.contextmanager
def stopped(servers: Sequence[Member]) -> Iterator[None]:
    """Stop servers by SIGSTOP while the block runs; SIGCONT follows."""
    pids = [server.pid for server in servers if server.pid is not None]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def proxied(cluster: Cluster) -> Iterator[TcpProxy]:
    """Run a proxy by which clients reach the first primary; nodes reach each other without it.

    It listens at another loopback address, at the port of the node. The node announces that address
    to clients as its name.
    """
    first = primaries(cluster)[0]
    with TcpProxy("127.0.0.1", first.port, listen=(_SECOND_HOST, first.port)) as proxy:
        for server in cluster.servers:
            host = _SECOND_HOST if server is first else "127.0.0.1"
            with server.client() as client:
                client.config_set("cluster-announce-hostname", host)
                client.config_set("cluster-preferred-endpoint-type", "hostname")
        wait_until(
            lambda: all(
                _hosts(server) == {_SECOND_HOST: 1, "127.0.0.1": 5} for server in cluster.servers
            ),
            "all nodes know the names",
        )
        yield proxy


def _hosts(server: Member) -> Counter[str]:
    """Return how many nodes have each address, by the reply of a server to CLUSTER SLOTS."""
    with server.client() as client:
        ranges: Any = client.execute_command("CLUSTER SLOTS")
    return Counter(host for _, _, *nodes in ranges for host, *_ in nodes)


@contextlib.contextmanager
def half_moved(cluster: Cluster, slot: int, *, first: Sequence[str] = ()) -> Iterator[None]:
    """Begin to move a slot to the next primary; its keys follow after the block, ``first`` before.

    At the former node, a command for a key that does not exist there gets ASK. A command for
    several keys of which some are missing gets TRYAGAIN.
    """
    with _half_moved(_Move.to(cluster, owners(cluster)[slot]), slot, first):
        yield


def move_slots(cluster: Cluster, slots: Iterable[int], target: Member | None = None) -> None:
    """Move slots of one primary to another, by default the next one, as ``redis-cli`` does."""
    first, *rest = slots
    move = _Move.to(cluster, owners(cluster)[first], target)
    for slot in (first, *rest):
        with _half_moved(move, slot, ()):
            pass


class _Move(NamedTuple):
    source: Member
    target: Member
    others: list[Member]

    @classmethod
    def to(cls, cluster: Cluster, source: Member, target: Member | None = None) -> Self:
        known = primaries(cluster)
        target = target or known[(known.index(source) + 1) % len(known)]
        return cls(source, target, [each for each in known if each not in (source, target)])


@contextlib.contextmanager
def _half_moved(move: _Move, slot: int, first: Sequence[str]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        source, target, *others = (
            stack.enter_context(server.client())
            for server in (move.source, move.target, *move.others)
        )
        source_id, target_id = (
            client.execute_command("CLUSTER MYID") for client in (source, target)
        )
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
        migrate = ("MIGRATE", "127.0.0.1", move.target.public_port, "", 0, 5000, "KEYS")
        if first:
            source.execute_command(*migrate, *first)
        yield
        while keys := source.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
            source.execute_command(*migrate, *keys)
        for client in (target, source, *others):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)


@contextlib.contextmanager
def first_primary_stopped(cluster: Cluster) -> Iterator[None]:
    """Stop the first primary by SIGSTOP; no replica is promoted, and the other nodes serve."""
    with primary_stopped(cluster, primaries(cluster)[0]):
        yield


@contextlib.contextmanager
def primary_stopped(cluster: Cluster, former: Member) -> Iterator[None]:
    """Stop a primary by SIGSTOP; no replica is promoted, and the other nodes serve."""
    others = [server for server in cluster.servers if server is not former]
    configure(others, {"cluster-replica-no-failover": "yes", "cluster-require-full-coverage": "no"})
    try:
        with stopped([former]):
            yield
    finally:
        served = {"cluster-replica-no-failover": "no", "cluster-require-full-coverage": "yes"}
        configure(others, served)
        wait_until(lambda: all(map(_serves, cluster.servers)), "all nodes serve again")


def configure(servers: Iterable[Member], options: dict[str, str]) -> None:
    """Set options of servers."""
    for server in servers:
        with server.client() as client:
            for name, value in options.items():
                client.config_set(name, value)


def moves_atomically(binary: Path) -> bool:
    """Return whether a server can move a slot as a whole (CLUSTER MIGRATESLOTS, valkey 9)."""
    with RedisProcess(binary) as server, redis.Redis.from_url(server.url) as client:
        return bool(client.execute_command("COMMAND DOCS", "CLUSTER|MIGRATESLOTS"))


def move_slots_atomically(cluster: Cluster, slots: Iterable[int]) -> None:
    """Move slots of one primary to the next one by CLUSTER MIGRATESLOTS."""
    wanted = set(slots)
    source, target, _ = _Move.to(cluster, owners(cluster)[min(wanted)])
    with target.client() as client:
        target_id = client.execute_command("CLUSTER MYID")
    ranges = [word for slot in sorted(wanted) for word in (slot, slot)]
    with source.client() as client:
        client.execute_command("CLUSTER MIGRATESLOTS", "SLOTSRANGE", *ranges, "NODE", target_id)
    wait_until(lambda: wanted <= slots_of(cluster, target), "the slots have moved")


def take_out(cluster: Cluster, node: Member) -> None:
    """Make all others forget a node without slots, and end it."""
    with node.client() as client:
        node_id = client.execute_command("CLUSTER MYID")
    cluster.servers.remove(node)
    for server in cluster.servers:
        if server.pid is not None:
            with server.client() as client:
                client.execute_command("CLUSTER FORGET", node_id)
    node.kill()


def is_down(server: Member) -> bool:
    """Return whether a server refuses commands, since not all slots are served."""
    with server.client() as client:
        found: Any = client.execute_command("CLUSTER INFO")
    return bool(found["cluster_state"] != "ok")


def _serves(server: Member) -> bool:
    return server.pid is None or not is_down(server)


def _agreed(cluster: Cluster) -> dict[int, int]:
    """Return the port of each slot's primary, or nothing if the running nodes differ."""
    views = [_view(server) for server in cluster.servers if server.pid is not None]
    same = all(view == views[0] for view in views)
    return {slot: port for low, high, port in views[0] if same for slot in range(low, high + 1)}


def _view(server: Member) -> list[tuple[int, int, int]]:
    """Return the first and the last slot of each range, and the port of its primary."""
    try:
        with server.client() as client:
            ranges: Any = client.execute_command("CLUSTER SLOTS")
    except redis.RedisError:
        return []
    return sorted((int(low), int(high), int(port)) for low, high, (_, port, *_), *_ in ranges)
