"""A blocking client of a Redis Cluster, for the command line."""

import random
from typing import Any

import redis
import redis.cluster
from redis._parsers.commands import CommandsParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as RedisTimeoutError

from berlin_worker.config.redis_url import RedisURL
from berlin_worker.storage.cluster_nodes import BlockingNodes, ClusterUnavailable


class _KnownCommands(CommandsParser):
    """Knows the keys of our commands, as the parser of the asyncio client does."""

    def get_keys(self, redis_conn: Any, *args: Any) -> tuple[Any, ...]:  # noqa: ARG002  # redis-py's signature
        return args[1:2]


class BlockingCluster(redis.RedisCluster):
    """A blocking client of a cluster, which connects at once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        try:
            super().__init__(*args, **options)
        except RedisClusterException as error:
            raise ClusterUnavailable(str(error)) from error
        except IndexError as error:  # there is no primary
            raise ClusterUnavailable("no slot of the cluster is assigned") from error
        self.nodes_manager.__class__ = BlockingNodes
        self.commands_parser = _KnownCommands(self)  # type: ignore[no-untyped-call]  # redis-py

    def any_node(self, *command: Any) -> Any:
        """Return the reply of the first primary that answers; raises redis-py's errors."""
        nodes = self._primaries()
        for left, node in zip(range(len(nodes) - 1, -1, -1), nodes, strict=True):
            try:
                return self.execute_command(*command, target_nodes=node)
            except (RedisConnectionError, RedisTimeoutError, OSError):
                if not left:
                    raise
        raise ClusterUnavailable("the cluster has no primary")

    def _primaries(self) -> list[redis.cluster.ClusterNode]:
        if not self.get_primaries():  # type: ignore[no-untyped-call]  # redis-py
            self.nodes_manager.initialize()
        found: list[redis.cluster.ClusterNode] = self.get_primaries()  # type: ignore[no-untyped-call]  # redis-py
        return found

    def get_random_primary_node(self) -> redis.cluster.ClusterNode:
        """Return any primary; hook of redis-py, for commands without a key."""
        return random.choice(self._primaries())  # noqa: S311  # spreads the load

    def get_node_from_key(self, key: str, replica: bool = False) -> redis.cluster.ClusterNode:  # noqa: ARG002  # redis-py's signature
        """Return the primary of a key's slot. Raises ``ClusterUnavailable``."""
        slot = self.keyslot(key)  # type: ignore[no-untyped-call]  # redis-py
        found: redis.cluster.ClusterNode = self.nodes_manager.get_node_from_slot(slot)
        return found

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; raises redis-py's errors."""
        if args == ("COMMAND",):
            return {}  # redis-py asks one node for the keys of all commands
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py
        except RedisClusterException as error:
            raise ClusterUnavailable(str(error)) from error


def ping(client: redis.Redis) -> None:
    """Raise redis-py's errors unless the server, or any node of the cluster, answers."""
    if isinstance(client, BlockingCluster):
        client.any_node("PING")
    else:
        client.ping()


def time_at(client: redis.Redis, key: str) -> tuple[int, int]:
    """Return the time (s, µs) of the server that has ``key``; raises redis-py's errors."""
    found: Any
    if isinstance(client, BlockingCluster):
        node = client.get_node_from_key(key)
        found = client.execute_command("TIME", target_nodes=node)
    else:
        found = client.time()
    seconds, micros = found
    return int(seconds), int(micros)


def open_blocking_cluster(url: RedisURL, options: dict[str, Any]) -> BlockingCluster:
    """Return a blocking client. Raises redis-py's errors: it connects at once."""
    nodes = [redis.cluster.ClusterNode(*node) for node in url.nodes]  # type: ignore[no-untyped-call]  # redis-py
    return BlockingCluster(startup_nodes=nodes, require_full_coverage=False, **options)
