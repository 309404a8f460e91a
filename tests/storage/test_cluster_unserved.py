"""Slots of a cluster that no node serves: an error of Redis on each path, until one does again."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.jobs.store import Progress
from berlin_worker.jobs.store_retry import retry_until_available
from berlin_worker.settings import Settings
from berlin_worker.storage import cancel_listener, connections, server_check
from berlin_worker.storage.blocking_cluster import BlockingCluster, ping, time_at
from berlin_worker.storage.cluster import AsyncCluster, uptime_s
from berlin_worker.storage.cluster_nodes import ClusterUnavailable
from berlin_worker.storage.connections import connect
from berlin_worker.storage.job_store import RedisStore
from tests.support.store_helpers import make_store
from tests.support.waiting import stopped, until
from tests.support.workers import wait_until

pytestmark = pytest.mark.contract

KEY = "job:{unserved}:state"
UNSERVED = (KEY, names.CONTROL_CHANNEL)


@pytest.fixture
def url(cluster_redis_url: str) -> str:
    return cluster_redis_url.replace("redis:", "redis+cluster:").removesuffix("/0")


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncCluster]:
    async with connect(url) as made:
        yield cast("AsyncCluster", made)


@pytest.fixture
async def store(client: AsyncCluster) -> AsyncIterator[RedisStore]:
    made = make_store(cast("Any", client), owner="owner", lease_s=6, one_slot=True)
    yield made
    await made.aclose()


@contextlib.contextmanager
def unassigned(node_url: str, *ranges: tuple[int, int]) -> Iterator[None]:
    """Ranges of slots without a node; the other slots are served."""
    flat = [slot for both in ranges for slot in both]
    with redis.Redis.from_url(node_url) as node:
        node.config_set("cluster-require-full-coverage", "no")
        node.config_set("cluster-node-timeout", 500)  # the node waits for so long before it serves
        node.execute_command("CLUSTER DELSLOTSRANGE", *flat)
        try:
            yield
        finally:
            node.execute_command("CLUSTER ADDSLOTSRANGE", *flat)
            node.config_set("cluster-require-full-coverage", "yes")
            wait_until(lambda: node.cluster("INFO")["cluster_state"] == "ok")
            node.config_set("cluster-node-timeout", 15000)


@contextlib.contextmanager
def two_unserved(node_url: str) -> Iterator[None]:
    """The slots of ``UNSERVED`` without a node."""
    slots = [key_slot(key.encode()) for key in UNSERVED]
    with unassigned(node_url, *((slot, slot) for slot in slots)):
        yield


async def in_pipeline(client: AsyncCluster) -> None:
    async with client.pipeline() as pipeline:
        await pipeline.get(KEY).execute()


async def in_transaction(client: AsyncCluster) -> None:
    async with client.pipeline(transaction=True) as pipeline:
        await pipeline.get(KEY).execute()


async def subscribe(client: AsyncCluster) -> None:
    async with client.pubsub() as channel:
        await channel.subscribe(names.CONTROL_CHANNEL)


async def node_of_key(client: AsyncCluster) -> None:
    client.get_node_from_key(KEY)


PATHS: list[Callable[[AsyncCluster], Awaitable[Any]]] = [
    lambda client: client.get(KEY),
    in_pipeline,
    in_transaction,
    subscribe,
    node_of_key,
]


async def answers(call: Callable[[], Awaitable[Any]]) -> None:
    """Return once ``call`` raises no error of Redis."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(RedisError):
                await call()
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("known", [True, False], ids=["known", "lost"])
async def test_each_path_raises_an_error_of_redis_until_the_slot_is_served(
    client: AsyncCluster, cluster_redis_url: str, known: bool
) -> None:
    if known:
        await client.initialize()
    with two_unserved(cluster_redis_url):
        await client.nodes_manager.initialize()
        for path in PATHS:
            with pytest.raises(RedisError):
                await path(client)
        assert await client.get("served") is None
    for path in PATHS:
        await answers(functools.partial(path, client))


async def test_listener_and_store_of_a_worker_wait_for_the_slot(
    client: AsyncCluster, store: RedisStore, cluster_redis_url: str
) -> None:
    heard: list[str] = []

    async def cancel(job_id: str, _reason: str) -> None:
        heard.append(job_id)

    with two_unserved(cluster_redis_url):
        await client.initialize()
        listening = asyncio.create_task(cancel_listener.listen(cast("Any", client), cancel))
        writes = [
            lambda: store.save_progress("unserved", "me", Progress({}, 0)),
            lambda: store.keep_cancel_flag("unserved"),
        ]
        for write in writes:
            with pytest.raises(ConnectionError):
                await write()
        waiting = [asyncio.create_task(retry_until_available(write)) for write in writes]
        assert not await cancel_listener.flags(cast("Any", client))("unserved")
        assert not listening.done()
    await asyncio.gather(*waiting)
    with redis.Redis.from_url(cluster_redis_url) as node:
        await until(lambda: node.publish(names.CONTROL_CHANNEL, '{"cancel": "unserved"}'))
    await until(lambda: heard)
    assert set(heard) == {"unserved"}
    await stopped(listening)


async def test_client_of_a_cluster_without_slots_waits_for_them(
    client: AsyncCluster, url: str, cluster_redis_url: str
) -> None:
    await client.initialize()
    async with contextlib.aclosing(cast("AsyncCluster", connect(url))) as fresh:
        with unassigned(cluster_redis_url, (0, 16383)):
            with pytest.raises(ClusterUnavailable, match="no slot"):
                await fresh.initialize()
            with pytest.raises(ClusterUnavailable, match="no slot"):
                await client.refresh()
            for path in (*PATHS, lambda client: client.execute_command("PING"), uptime_s):
                for each in (client, fresh):
                    with pytest.raises(RedisError):
                        await path(each)
            async with connect(url) as entered:  # as a worker does at its start
                with pytest.raises(ClusterUnavailable, match="no slot"):
                    await entered.get(KEY)
            await server_check.check(Settings(redis_url=url, broker_url="amqp://localhost"), {})
        for path in PATHS:
            await answers(functools.partial(path, client))
            await answers(functools.partial(path, fresh))


def piped(client: redis.Redis) -> Any:
    with client.pipeline(transaction=False) as pipeline:
        return pipeline.get(KEY).execute()


BLOCKING: list[Callable[[redis.Redis], Any]] = [
    lambda client: client.get(KEY),
    piped,
    lambda client: time_at(client, KEY),
]


@pytest.mark.parametrize("all_slots", [False, True], ids=["some", "all"])
def test_blocking_client_raises_errors_of_redis_until_the_slot_is_served(
    url: str, cluster_redis_url: str, all_slots: bool
) -> None:
    slot = key_slot(KEY.encode())
    ranges = (0, 16383) if all_slots else (slot, slot)
    with connections.blocking(url, timeout_s=5) as client:
        assert isinstance(client, BlockingCluster)
        with unassigned(cluster_redis_url, ranges):
            with contextlib.suppress(ClusterUnavailable):
                client.nodes_manager.initialize()
            for path in BLOCKING:
                with pytest.raises(RedisError):
                    path(client)
            if all_slots:
                with pytest.raises(ClusterUnavailable):
                    ping(client)
                with pytest.raises(ClusterUnavailable):
                    connections.blocking(url, timeout_s=5)
            else:
                ping(client)
                client.get("served")
        for path in BLOCKING:
            path(client)
        ping(client)
