"""The shapes of Redis that a worker runs on, each as a server set of the test process."""

from dataclasses import dataclass
from typing import Final

import redis

from berlin_worker.storage import nodes

TOPOLOGIES: Final = ("single", "sentinel", "cluster")
"""Parameters of the fixture ``topology``."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Where workers and clients connect."""

    kind: str
    redis_url: str
    broker_url: str = ""
    """Empty: the queue is on the same servers."""


def empty(url: str) -> None:
    """Remove all keys of each primary."""
    for node in nodes.nodes_of_blocking(url, timeout_s=10):
        if node.primary:
            with redis.Redis.from_url(node.url) as client:
                client.flushall()
