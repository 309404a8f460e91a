"""Clients of a Redis Cluster whose errors are redis-py's ``RedisError`` as everywhere else."""

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

from berlin_worker.config.redis_url import RedisURL


class ClusterUnavailable(RedisConnectionError):
    """No node of the cluster answers, or not all of its slots are served."""


class AsyncCluster(redis.asyncio.RedisCluster):
    """An asyncio client of a cluster."""

    async def initialize(self, *args: Any, **options: Any) -> redis.asyncio.RedisCluster:
        """Ask the nodes for their slots. Raises ``ClusterUnavailable``."""
        try:
            return await super().initialize(*args, **options)
        except RedisClusterException as error:
            raise ClusterUnavailable(str(error)) from error

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
    nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in url.nodes]
    return AsyncCluster(startup_nodes=nodes, **options)


def open_blocking_cluster(url: RedisURL, options: dict[str, Any]) -> BlockingCluster:
    """Return a blocking client. Raises redis-py's errors: it connects at once."""
    nodes = [redis.cluster.ClusterNode(*node) for node in url.nodes]  # type: ignore[no-untyped-call]  # redis-py
    return BlockingCluster(startup_nodes=nodes, **options)
