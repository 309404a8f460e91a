"""The servers behind a URL, each as a URL of its own, for questions to every single server."""

from typing import Any, NamedTuple

from berlin_worker.config import urls
from berlin_worker.storage import connections
from berlin_worker.storage.survey import place, survey


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
        cluster: Any = client
        await cluster.initialize()
        found = [
            Node(parsed.at(place(node.host, node.port)), node.server_type == "primary")
            for node in cluster.get_nodes()
        ]
    return sorted(found, key=lambda node: (not node.primary, node.url))


def nodes_of_blocking(url: str, *, timeout_s: float) -> list[Node]:
    """Return all servers: primaries first, then the replicas that are known.

    Raises redis-py's errors if the primary or the cluster cannot be reached.
    """
    parsed = urls.parse_redis(url, "REDIS_URL")
    if parsed.topology == "single":
        return [Node(url, primary=True)]
    with connections.blocking(url, timeout_s=timeout_s) as client:
        found = survey(parsed, client)
    return [Node(parsed.at(each.place), each.primary) for each in found.servers]
