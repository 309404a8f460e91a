"""Channels on a cluster: each at the node of its slot, also after the slot has moved."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterable

import pytest
from redis.crc import key_slot

from berlin_schemas import names
from berlin_worker.client.cluster_subscriptions import ClusterSubscriptions
from berlin_worker.client.resp3 import Resp3Connection
from berlin_worker.client.subscription import Signal, Subscription
from berlin_worker.embedded.topology import Cluster
from berlin_worker.storage import connections
from berlin_worker.storage.cluster import AsyncCluster
from tests.support.cluster import (
    fail_over,
    move_slots,
    owners,
    primaries,
    replica_of,
    slots_of_first,
)

pytestmark = pytest.mark.contract

JOBS = 300


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[AsyncCluster]:
    async with connections.commands(cluster.url) as made:
        assert isinstance(made, AsyncCluster)
        yield made


@pytest.fixture
async def readers(cluster: Cluster, client: AsyncCluster) -> AsyncIterator[ClusterSubscriptions]:
    made = ClusterSubscriptions(
        client,
        functools.partial(connections.node_readers, cluster.url),
        buffer_bytes=1_000_000,
        reread_after_s=600.0,
    )
    yield made
    await made.aclose()


async def opened(readers: ClusterSubscriptions) -> list[Subscription]:
    found = [readers.open(names.sharded_channel(f"job-{n}")) for n in range(JOBS)]
    for subscription in found:
        await readers.acknowledged(subscription)
    return found


def publish(cluster: Cluster, subscriptions: Iterable[Subscription], data: bytes) -> None:
    """Publish once for each: redis-py's cluster client repeats a command whose reply it lost."""
    with contextlib.ExitStack() as stack:
        found = owners(cluster)
        clients = {
            server.port: stack.enter_context(server.client()) for server in primaries(cluster)
        }
        for each in subscriptions:
            server = found[key_slot(each.channel)]
            clients[server.port].execute_command("SPUBLISH", each.channel, data)


async def test_channels_of_all_slots_share_a_connection_a_node(
    cluster: Cluster, readers: ClusterSubscriptions
) -> None:
    found = await opened(readers)
    assert len(readers._nodes) == 3
    publish(cluster, found, b"text")
    assert [await each.take() for each in found] == [[b"text"]] * JOBS
    for subscription in found:
        readers.close(subscription)
    assert all(node.is_empty for node in readers._nodes.values())


async def test_channel_moves_with_its_slot_and_its_reader_looks_at_the_log(
    cluster: Cluster, readers: ClusterSubscriptions
) -> None:
    found = await opened(readers)
    first = slots_of_first(cluster)
    moving = [each for each in found if key_slot(each.channel) in first][:20]
    move_slots(cluster, {key_slot(each.channel) for each in moving})
    assert {await each.take() for each in moving} == {Signal.OVERFLOW}
    publish(cluster, found, b"after")
    assert [await each.take() for each in found] == [[b"after"]] * JOBS


async def test_channels_get_their_messages_after_a_failover(
    cluster: Cluster, readers: ClusterSubscriptions
) -> None:
    found = await opened(readers)
    first = slots_of_first(cluster)
    moving = [each for each in found if key_slot(each.channel) in first]
    fail_over(cluster)
    assert {await each.take() for each in moving} == {Signal.OVERFLOW}
    publish(cluster, found, b"after")
    for subscription in found:
        taken = await subscription.take()
        while taken is Signal.OVERFLOW:  # it has moved again: the former primary is a replica
            publish(cluster, [subscription], b"after")
            taken = await subscription.take()
        assert set(taken) == {b"after"}  # type: ignore[arg-type]  # messages


async def test_channel_leaves_a_replica_that_has_taken_its_subscription(
    cluster: Cluster,
    client: AsyncCluster,
    readers: ClusterSubscriptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await client.initialize()  # type: ignore[no-untyped-call]  # redis-py
    channel = names.sharded_channel("job")
    primary = owners(cluster)[key_slot(channel.encode())]
    stale = f"127.0.0.1:{replica_of(cluster, primary).port}"
    with monkeypatch.context() as patch:
        patch.setattr(client, "node_of", lambda _name: stale)
        subscription = readers.open(channel)
        await readers.acknowledged(subscription)
    assert await subscription.take() is Signal.OVERFLOW
    assert readers._homes == {subscription.channel: client.node_of(subscription.channel)}


class _Wire:
    def __init__(self) -> None:
        self._writer = self
        self.sent: list[bytes] = []

    def write(self, packed: bytes) -> None:
        self.sent.append(packed)


def push(kind: bytes, channel: bytes) -> bytes:
    return b">3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n:0\r\n" % (len(kind), kind, len(channel), channel)


def test_end_of_a_subscription_is_a_reply_or_a_moved_slot() -> None:
    moved: list[tuple[bytes, bool]] = []
    subscribed: list[bytes] = []

    async def run() -> None:
        connection = Resp3Connection(
            _Wire(),  # type: ignore[arg-type]  # in place of redis-py's
            lambda *_: None,
            lambda channel, _: subscribed.append(channel),
            lambda *end: moved.append(end),
        )
        connection.subscribe([b"a", b"b", b"c"])
        redirected = b"-MOVED 1 127.0.0.1:1\r\n"
        connection.feed(push(b"ssubscribe", b"a") + redirected + b"-CLUSTERDOWN down\r\n")
        assert (subscribed, moved) == ([b"a"], [(b"b", True), (b"c", True)])
        moved.clear()
        connection.feed(redirected + b"*0\r\n" + b"-NOPERM log\r\n")  # "a" is at a replica
        assert moved == [(b"a", False)]
        moved.clear()
        connection.unsubscribe([b"a"])
        connection.feed(push(b"sunsubscribe", b"d") + push(b"sunsubscribe", b"a"))
        assert moved == [(b"d", False)]
        connection.feed(push(b"sunsubscribe", b"a"))
        assert moved == [(b"d", False), (b"a", False)]

    asyncio.run(run())
