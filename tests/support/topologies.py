"""The shapes of Redis that a worker runs on, each as a server set of the test process."""

from dataclasses import dataclass
from typing import Final

import pytest
import redis

from berlin_worker.storage import connections, nodes

TOPOLOGIES: Final = ("single", "sentinel", "cluster")
"""Parameters of the fixture ``topology``, and values of the option ``--topology``."""
OPTION: Final = "--topology"
PART: Final = "--part"
"""Option that runs a part of the chaos tests: ``2/3``."""
_FIXTURES: Final = {"sentinel": "sentinel_set", "cluster": "cluster"}


@dataclass(frozen=True, slots=True)
class Topology:
    """The servers to which workers and clients connect."""

    kind: str
    redis_url: str
    broker_url: str = ""
    """Empty: the queue is on the same servers."""


def chosen(config: pytest.Config) -> str:
    """Return the topology of tests that run on one: that of the option, else a single Redis."""
    return config.getoption(OPTION) or "single"


def emptied(request: pytest.FixtureRequest, kind: str, db: int = 0) -> Topology:
    """Return servers of the test process, without any key in the given database.

    The queue of a cluster is in that database of the single server. Behind Sentinels each database
    has a queue of its own, as on a single server.
    """
    server: str = request.getfixturevalue("redis_server").url
    single = f"{server.removesuffix('/0')}/{db}"
    with redis.Redis.from_url(single) as client:
        client.flushdb()
    if kind == "single":
        return Topology("single", single)
    url: str = request.getfixturevalue(_FIXTURES[kind]).url
    if kind == "cluster":
        empty(url)
        return Topology("cluster", url, single)
    url = f"{url.removesuffix('/0')}/{db}"
    with connections.blocking(url, timeout_s=10) as client:
        client.flushdb()
    return Topology("sentinel", url)


def empty(url: str) -> None:
    """Remove all keys of each primary."""
    for node in nodes.nodes_of_blocking(url, timeout_s=10):
        if node.primary:
            with redis.Redis.from_url(node.url) as client:
                client.flushall()
