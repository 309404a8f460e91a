"""An asyncio client of a Redis Cluster, whose errors are ``RedisError`` as everywhere else."""

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, Self

import redis
import redis.asyncio
from redis._parsers.commands import AsyncCommandsParser
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError, SlotNotCoveredError

from berlin_worker.config.redis_url import RedisURL
from berlin_worker.storage.closed_transport import reporting_closed
from berlin_worker.storage.cluster_nodes import ClusterUnavailable, Nodes, SlotNotServed

_REFRESH_S: Final = 0.1
_CONNECTIONS_MAX: Final = 1000


class _AskedNode:
    """A node that imports the slot of a command: ASKING precedes the command.

    All other attributes are those of the node itself.
    """

    def __init__(self, node: ClusterNode) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command, with ASKING right before it."""
        if args == ("ASKING",):
            return None
        options.pop("asking", None)
        node: Any = self._node
        connection = node.acquire_connection()
        try:
            commands = connection.pack_commands([("ASKING",), args])
            await connection.send_packed_command(commands, False)
            await connection.read_response()
            return await node.parse_response(connection, args[0], **options)
        except BaseException:
            await connection.disconnect(nowait=True)  # so that no reply is left in it
            raise
        finally:
            node.release(connection)


class _KnownCommands(AsyncCommandsParser):
    """Knows the keys of our commands.

    redis-py's parser would ask one node for them whenever the slots are asked for, and fail if that
    node does not answer.
    """

    async def initialize(self, node: Any = None) -> None:
        """Ask nothing."""

    async def get_keys(self, *args: Any) -> tuple[Any, ...]:
        """Return the first key of a command; the others have the same slot."""
        return args[1:2]


class AsyncCluster(redis.asyncio.RedisCluster):
    """An asyncio client of a cluster."""

    def __init__(self, *, at_once: int, **options: Any) -> None:
        """``at_once``: how many commands of a node run side by side; others wait for their turn."""
        # A node of redis-py raises an error once it has no connection left. Pipelines, which are
        # few, do not wait.
        super().__init__(max_connections=_CONNECTIONS_MAX, **options)
        # One for each node: commands for one that does not answer hold up no others.
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(at_once)
        )
        self._refreshed_s = -math.inf
        self._refreshing: asyncio.Task[None] | None = None
        self.nodes_manager = Nodes(
            self.startup_nodes,
            require_full_coverage=False,  # jobs of the slots that are served go on
            connection_kwargs=self.connection_kwargs,
            event_dispatcher=self._event_dispatcher,
            on_missing=self._refresh_soon,
        )
        self.commands_parser = _KnownCommands()
        self._under_way = 0
        kind = reporting_closed(self.connection_kwargs["connection_class"])
        self.connection_kwargs["connection_class"] = kind
        for node in self.startup_nodes:
            node.connection_class = kind  # type: ignore[assignment]  # it takes any kind

    def get_node(self, *args: Any, node_name: str | None = None, **options: Any) -> Any:
        """Return a node; hook of redis-py, which names one only to follow an ASK.

        redis-py would send ASKING over one connection and the command over another.
        """
        if node_name is None:
            return super().get_node(*args, **options)
        node = super().get_node(node_name=node_name)
        if node is None:  # it has joined, and serves no slot yet
            host, _, port = node_name.rpartition(":")
            node = ClusterNode(host, int(port), **self.nodes_manager.connection_kwargs)
            self.nodes_manager.nodes_cache[node.name] = node
        return _AskedNode(node)

    async def initialize(self, *args: Any, **options: Any) -> redis.asyncio.RedisCluster:
        """Ask the nodes for their slots. Raises ``ClusterUnavailable``."""
        try:
            return await super().initialize(*args, **options)
        except RedisClusterException as error:
            raise ClusterUnavailable(str(error)) from error

    async def __aenter__(self) -> Self:
        """Ask the nodes for their slots. If that fails, the first command asks again."""
        await self._increment_usage()
        with contextlib.suppress(ClusterUnavailable):
            await self.initialize()
        return self

    async def refresh(self) -> None:
        """Ask the nodes for their slots anew, unless they were asked within the last 0.1 s.

        Raises ``ClusterUnavailable``.
        """
        now = asyncio.get_running_loop().time()
        if now - self._refreshed_s < _REFRESH_S:
            return
        self._refreshed_s = now
        try:
            await self.nodes_manager.initialize()
        except RedisClusterException as error:
            # Without a node each command asks for the slots first.
            self._initialize = self._initialize or not self.knows_slots
            raise ClusterUnavailable(str(error)) from error

    def _refresh_soon(self) -> None:
        # Commands for other slots, and this one, do not wait for nodes that may not answer.
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refreshed())

    async def _refreshed(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self.refresh()

    def get_node_from_key(self, key: str, replica: bool = False) -> Any:  # noqa: ARG002  # redis-py's signature
        """Return the primary of a key's slot. Raises ``SlotNotServed``."""
        return self.nodes_manager.get_node_from_slot(self.keyslot(key))

    def serving(self) -> list[str]:
        """Return the primaries that serve slots, as ``host:port``; none before they are known."""
        return [node.name for node in self.get_primaries()]

    async def ask_node(self, node: str, *command: Any) -> Any:
        """Return the reply of one node; raises redis-py's errors."""
        await self.initialize()
        found = self.nodes_manager.get_node(node_name=node)
        if found is None:
            raise ClusterUnavailable(f"{node} has left the cluster")
        return await self._ask(found, *command)

    async def _ask(self, node: ClusterNode, *command: Any) -> Any:
        """Return the reply of one node; raises redis-py's errors."""
        try:
            return await node.execute_command(*command)
        except RedisConnectionError:
            # It may have left the cluster. Only commands for a slot are redirected then.
            await self.refresh()
            raise

    @property
    def knows_slots(self) -> bool:
        """Whether the nodes of the slots are known, as of the last time they were asked for."""
        return bool(self.nodes_manager.slots_cache)

    def node_of(self, key: bytes | str) -> str:
        """Return the primary of a key's slot as ``host:port``.

        Raises redis-py's ``SlotNotCoveredError`` if no node serves it.
        """
        # Twice for each chunk: redis-py's own way to here costs three times as much.
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        servers = self.nodes_manager.slots_cache.get(slot)
        if not servers:
            raise SlotNotCoveredError(f"no node of the cluster serves slot {slot}")
        name: str = servers[0].name
        return name

    def node_connection(self, host: str, port: int) -> AbstractConnection:
        """Return a new connection, not yet connected, with the options of all others."""
        node = ClusterNode(host, port, **self.nodes_manager.connection_kwargs)
        made: AbstractConnection = node.connection_class(**node.connection_kwargs)
        return made

    def _asked_node(self, command: tuple[Any, ...]) -> str:
        """Return the node of a command's first key; empty if it has no key, or no node is known."""
        key = key_of(command) if len(command) > 1 else None
        if not self.knows_slots or not isinstance(key, str | bytes):
            return ""
        try:
            return self.node_of(key)
        except SlotNotCoveredError:
            return ""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command; raises redis-py's errors."""
        self._under_way += 1
        try:
            async with self._turns[self._asked_node(args)]:
                return await super().execute_command(*args, **options)
        except (RedisClusterException, SlotNotServed) as error:
            raise ClusterUnavailable(str(error)) from error
        finally:
            self._under_way -= 1

    async def aclose(self) -> None:
        """Close all connections.

        redis-py calls this during commands, too. Its own method keeps the connections open if the
        last command has failed.
        """
        if self._refreshing is not None and not self._under_way:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        if self._initialize and not self._under_way:
            await self.nodes_manager.aclose()
            await self.nodes_manager.aclose("startup_nodes")
        await super().aclose()


class NodePool:
    """Makes the connections to one node, in place of a pool of redis-py."""

    def __init__(self, cluster: AsyncCluster, name: str) -> None:
        self._cluster = cluster
        self._host, _, self._port = name.rpartition(":")

    async def get_connection(self) -> Any:
        """Return a connection that is not connected yet."""
        return self._cluster.node_connection(self._host, int(self._port))


def key_of(command: Sequence[Any]) -> Any:
    """Return the first key of a command of ours that has one (pure)."""
    return command[3] if command[0] == "EVAL" else command[1]


async def uptime_s(client: redis.asyncio.Redis | AsyncCluster, node: str = "") -> float:
    """Return the uptime of a server in seconds; infinite if INFO lacks it.

    On a cluster this is the uptime of ``node``, or else of the primary that was started last.
    Raises redis-py's errors.
    """
    if isinstance(client, AsyncCluster):
        await client.initialize()
        nodes = [node] if node else client.serving()
        infos = [await client.ask_node(each, "INFO", "server") for each in nodes]
    else:
        infos = [await client.info("server")]
    if not infos:
        raise ClusterUnavailable("no slot of the cluster is assigned")
    return min(float(info.get("uptime_in_seconds", math.inf)) for info in infos)


def open_cluster(url: RedisURL, options: dict[str, Any]) -> AsyncCluster:
    """Return an asyncio client; it connects at its first command."""
    nodes = [ClusterNode(host, port) for host, port in url.nodes]
    at_once: int = options.pop("max_connections")
    return AsyncCluster(startup_nodes=nodes, at_once=at_once, **options)
