"""Clients of a Redis Cluster whose errors are redis-py's ``RedisError`` as everywhere else."""

import asyncio
import math
from collections.abc import Mapping
from typing import Any, Final

import redis
import redis.asyncio
import redis.cluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

from berlin_worker.config.redis_url import RedisURL

_REFRESH_S: Final = 0.1


class ClusterUnavailable(RedisConnectionError):
    """No node of the cluster answers, or not all of its slots are served."""


class AsyncCluster(redis.asyncio.RedisCluster):
    """An asyncio client of a cluster."""

    _refreshed_s = -math.inf

    async def initialize(self, *args: Any, **options: Any) -> redis.asyncio.RedisCluster:
        """Ask the nodes for their slots. Raises ``ClusterUnavailable``."""
        try:
            return await super().initialize(*args, **options)
        except RedisClusterException as error:
            raise ClusterUnavailable(str(error)) from error

    async def refresh(self) -> None:
        """Ask the nodes for their slots anew, but not right after the last time.

        Raises ``ClusterUnavailable``.
        """
        now = asyncio.get_running_loop().time()
        if now - self._refreshed_s < _REFRESH_S:
            return
        self._refreshed_s = now
        try:
            await self.nodes_manager.initialize()
        except RedisClusterException as error:
            raise ClusterUnavailable(str(error)) from error

    async def infos(self, section: str) -> list[dict[str, Any]]:
        """Return a section of INFO of each primary; raises redis-py's errors."""
        await self.initialize()
        return [await node.execute_command("INFO", section) for node in self.get_primaries()]

    async def scan_all(
        self, cursors: Mapping[str, int], match: str, count: int
    ) -> tuple[dict[str, int], list[bytes]]:
        """Go on with a scan of each primary; return the next cursor of each, and the keys.

        ``cursors`` is what the last call has returned, at first empty. A primary without an
        entry is scanned from its beginning. Raises redis-py's errors.
        """
        await self.initialize()
        after: dict[str, int] = {}
        keys: list[bytes] = []
        for node in self.get_primaries():
            cursor = cursors.get(node.name, 0)
            found = await node.execute_command("SCAN", cursor, "MATCH", match, "COUNT", count)
            after[node.name] = int(found[0])
            keys += found[1]
        return after, keys

    def node_of(self, key: bytes | str) -> str:
        """Return the primary of a key's slot as ``host:port``.

        Raises redis-py's ``SlotNotCoveredError`` if no node serves it.
        """
        name: str = self.nodes_manager.get_node_from_slot(self.keyslot(key)).name
        return name

    def node_connection(self, host: str, port: int) -> AbstractConnection:
        """Return a new connection, not yet connected, with the options of all others."""
        node = ClusterNode(host, port, **self.nodes_manager.connection_kwargs)
        made: AbstractConnection = node.connection_class(**node.connection_kwargs)
        return made

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; raises redis-py's errors."""
        try:
            return await super().execute_command(*args, **options)
        except RedisClusterException as error:
            raise ClusterUnavailable(str(error)) from error


class BlockingCluster(redis.RedisCluster):
    """A blocking client of a cluster, which connects at once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        try:
            super().__init__(*args, **options)
        except RedisClusterException as error:
            raise ClusterUnavailable(str(error)) from error

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; raises redis-py's errors."""
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py
        except RedisClusterException as error:
            raise ClusterUnavailable(str(error)) from error


def open_cluster(url: RedisURL, options: dict[str, Any]) -> AsyncCluster:
    """Return an asyncio client; it connects at its first command."""
    nodes = [ClusterNode(host, port) for host, port in url.nodes]
    # Jobs of the slots that are served go on.
    return AsyncCluster(startup_nodes=nodes, require_full_coverage=False, **options)


def open_blocking_cluster(url: RedisURL, options: dict[str, Any]) -> BlockingCluster:
    """Return a blocking client. Raises redis-py's errors: it connects at once."""
    nodes = [redis.cluster.ClusterNode(*node) for node in url.nodes]  # type: ignore[no-untyped-call]  # redis-py
    return BlockingCluster(startup_nodes=nodes, require_full_coverage=False, **options)
