"""The servers behind a URL, each as a URL of its own: for what is asked of every single one."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import redis
from redis.exceptions import RedisError

from berlin_worker.config import urls
from berlin_worker.config.redis_url import RedisURL
from berlin_worker.storage import connections
from berlin_worker.storage.sentinel import watch_of


class Node(NamedTuple):
    """One server; ``url`` names it alone."""

    url: str
    primary: bool


async def nodes_of(url: str) -> list[Node]:
    """Return the primaries that a worker uses, and of a cluster the replicas too.

    Raises redis-py's errors if a cluster cannot be reached.
    """
    parsed = urls.parse_redis(url, "REDIS_URL")
    if parsed.topology != "cluster":
        return [Node(url, primary=True)]
    async with connections.commands(url) as client:
        found: Any = client
        return _nodes(parsed, found.get_nodes())


def nodes_of_blocking(url: str, *, timeout_s: float) -> list[Node]:
    """Return all servers: primaries first, then the replicas that are known.

    Raises redis-py's errors if the primary or the cluster cannot be reached.
    """
    parsed = urls.parse_redis(url, "REDIS_URL")
    if parsed.topology == "single":
        return [Node(url, primary=True)]
    with connections.blocking(url, timeout_s=timeout_s) as client:
        if parsed.topology == "cluster":
            found: Any = client
            return _nodes(parsed, found.get_nodes())
        return _behind_sentinels(parsed, client)


def _behind_sentinels(parsed: RedisURL, client: redis.Redis) -> list[Node]:
    primary = parsed.at(_place(*watch_of(parsed).find_blocking()))
    try:
        replication: Any = client.info("replication")
    except RedisError:  # a user without the right to run it
        replication = {}
    replicas = [
        Node(parsed.at(_place(field["ip"], field["port"])), primary=False)
        for name, field in sorted(replication.items())
        if re.fullmatch(r"slave\d+", name) and isinstance(field, dict)
    ]
    return [Node(primary, primary=True), *replicas]


def _nodes(parsed: RedisURL, nodes: Iterable[Any]) -> list[Node]:
    """Return the nodes that redis-py's client of a cluster knows, primaries first."""
    found = [
        Node(parsed.at(_place(node.host, node.port)), node.server_type == "primary")
        for node in nodes
    ]
    return sorted(found, key=lambda node: (not node.primary, node.url))


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
