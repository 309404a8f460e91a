"""Clients and connections that find the primary by its Sentinels, through failovers."""

import asyncio
from collections.abc import Iterator

import pytest
import redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from berlin_worker.config import urls
from berlin_worker.embedded.redis_server import find_server, free_port
from berlin_worker.embedded.topology import SentinelSet
from berlin_worker.storage import connections, nodes
from berlin_worker.storage.redis_errors import PrimaryNotFound, describe
from berlin_worker.storage.script_connection import ScriptConnection, SharedScriptConnection
from berlin_worker.storage.sentinel import newest, not_found, watch_of
from tests.support.needed import needed
from tests.support.sentinel import bring_back, fail_over, has_caught_up, kill_primary
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

PASSWORD, WATCH = "QZXdata", "QZXwatch"
UP = {"is_master": True, "is_sdown": False, "is_odown": False, "ip": "10.0.0.1", "port": 6379}
SCRIPT = "return redis.call('INCR', KEYS[1])"


@pytest.fixture(scope="module")
def sentinels() -> Iterator[SentinelSet]:
    binary = needed(find_server(), "redis-server or valkey-server")
    with SentinelSet(binary, password=PASSWORD, sentinel_password=WATCH) as running:
        yield running


@pytest.mark.parametrize("flag", ["is_sdown", "is_odown"])
def test_primary_that_is_down_is_not_the_one_to_connect_to(flag: str) -> None:
    assert newest([{"m": UP}], "m") == ("10.0.0.1", 6379)
    assert newest([{"m": UP | {flag: True}}], "m") is None
    assert newest([{"m": UP | {flag: True}}, {"m": UP}], "m") == ("10.0.0.1", 6379)
    assert newest([{"m": UP | {"is_master": False}}], "m") is None
    assert newest([{"m": UP}], "other") is None


def test_sentinel_that_is_behind_is_not_believed() -> None:
    promoted = UP | {"ip": "10.0.0.2", "config-epoch": 8}
    behind, down = UP | {"config-epoch": 7}, promoted | {"is_sdown": True}
    assert newest([{"m": behind}, {"m": promoted}], "m") == ("10.0.0.2", 6379)
    assert newest([{"m": behind}, {"m": down}], "m") is None


def test_error_names_the_correction() -> None:
    denied, away = NoPermissionError("NOPERM"), RedisConnectionError("refused")
    assert isinstance(not_found("m", 2, [denied, away]), AuthenticationError)
    for errors in ([], [away], [denied], [away, away]):
        found = not_found("m", 3, errors)
        assert isinstance(found, PrimaryNotFound)
        assert "'m'" in describe("redis+sentinel://a/m", found)


def killed_and_back(sentinels: SentinelSet) -> None:
    wait_until(lambda: has_caught_up(sentinels), "the replica has it all")
    bring_back(sentinels, kill_primary(sentinels))


async def test_every_client_continues_at_the_new_primary(sentinels: SentinelSet) -> None:
    url = sentinels.url
    readers = connections.readers(url)
    async with connections.commands(url) as commands, connections.connect(url) as worker:
        scripts = SharedScriptConnection(ScriptConnection(worker.connection_pool, SCRIPT))
        for change in (fail_over, killed_and_back):
            await commands.set("key", change.__name__)
            before = await scripts.call(SCRIPT, ["count"], [])
            settled_at = watch_of(urls.parse_redis(url, "")).settled_at
            change(sentinels)

            async def goes_on(before: int = before, name: str = change.__name__) -> bool:
                try:
                    with connections.blocking(url, timeout_s=3) as blocking:
                        assert blocking.get("key") == name.encode()
                    assert await commands.set("key", name)
                    assert await worker.get("key") == name.encode()
                    assert await scripts.call(SCRIPT, ["count"], []) > before
                except (RedisError, OSError):
                    return False
                return True

            async with asyncio.timeout(60):
                while not await goes_on():  # noqa: ASYNC110  # servers come back: there is no event
                    await asyncio.sleep(0.05)
            assert watch_of(urls.parse_redis(url, "")).settled_at > settled_at
            reader = readers()
            await reader.connect()
            assert getattr(reader, "port") == sentinels.primary().public_port  # noqa: B009  # redis-py's types lack it
            await reader.disconnect()


async def test_dead_sentinels_are_skipped(sentinels: SentinelSet) -> None:
    dead = f"127.0.0.1:{free_port()}"
    login, at, rest = sentinels.url.rpartition("@")
    url = f"{login}{at}{dead},{rest}"
    async with connections.commands(url) as commands:
        assert await commands.ping()
    with connections.blocking(url, timeout_s=3) as blocking:
        assert blocking.ping()


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        (WATCH, "QZXwrong", AuthenticationError, "correct sentinel_username"),
        (f"?sentinel_password={WATCH}", "", AuthenticationError, "correct sentinel_username"),
        (PASSWORD, "QZXwrong", AuthenticationError, "WRONGPASS|invalid"),
        ("mymaster", "other", PrimaryNotFound, "'other'"),
    ],
)
async def test_fault_of_a_url_is_named(
    sentinels: SentinelSet, old: str, new: str, kind: type[Exception], message: str
) -> None:
    url = sentinels.url.replace(old, new)
    async with connections.commands(url) as commands:
        with pytest.raises(kind, match=message) as caught:
            await commands.ping()
    assert "QZX" not in str(caught.value)
    with (
        pytest.raises(kind, match=message),
        connections.blocking(url, timeout_s=3) as blocking,
    ):
        blocking.ping()


def test_servers_behind_sentinels_are_the_primary_and_its_replicas(
    sentinels: SentinelSet,
) -> None:
    found = nodes.nodes_of_blocking(sentinels.url, timeout_s=3)
    assert [node.primary for node in found] == [True, False]
    for node in found:
        with redis.Redis.from_url(node.url) as client:
            role = client.info("replication")["role"]
        assert role == ("master" if node.primary else "slave")
