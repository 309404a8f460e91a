"""The nodes of a Redis Cluster, as redis-py knows them; a slot without a node is a ``RedisError``.

redis-py raises ``KeyError`` or ``IndexError`` for it, and forgets the nodes of a cluster of which
no slot is assigned.
"""

from collections.abc import Callable
from typing import Any

import redis.asyncio.cluster
import redis.cluster
from redis.exceptions import AskError, MovedError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError


class ClusterUnavailable(RedisConnectionError):
    """No node of the cluster answers, or not all of its slots are served."""


class SlotNotServed(RedisError):
    """No node serves the slot of a command, as far as the nodes are known.

    It is no ``ConnectionError``: after that redis-py's pipelines close all connections.
    """


class Nodes(redis.asyncio.cluster.NodesManager):
    """The nodes of an asyncio client, which calls ``on_missing`` if a slot has none."""

    def __init__(self, *args: Any, on_missing: Callable[[], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._on_missing = on_missing

    def get_node_from_slot(self, slot: int, *args: Any, **options: Any) -> Any:
        """Return the node of a slot. Raises ``SlotNotServed``."""
        if not self.slots_cache.get(slot):
            self._on_missing()
            raise SlotNotServed(f"no node of the cluster serves slot {slot}")
        return super().get_node_from_slot(slot, *args, **options)

    async def move_slot(self, e: AskError | MovedError) -> None:
        """Note the new node of a slot, which may have had none."""
        self.slots_cache.setdefault(int(e.slot_id), [])
        await super().move_slot(e)

    async def initialize(self, *args: Any, **options: Any) -> None:
        """Ask the nodes for their slots. Raises ``RedisClusterException``."""
        known = dict(self.startup_nodes)
        try:
            await super().initialize(*args, **options)
        except IndexError as error:  # there is no primary
            self.startup_nodes = self.startup_nodes or known
            self.default_node = None  # type: ignore[assignment]  # as redis-py does on its close
            raise RedisClusterException("no slot of the cluster is assigned") from error


class BlockingNodes(redis.cluster.NodesManager):
    """The nodes of a blocking client."""

    def get_node_from_slot(self, slot: int, *args: Any, **options: Any) -> Any:
        """Return the node of a slot. Raises ``ClusterUnavailable``."""
        if not self.slots_cache.get(slot):
            self.initialize()
        if not self.slots_cache.get(slot):
            raise ClusterUnavailable(f"no node of the cluster serves slot {slot}")
        return super().get_node_from_slot(slot, *args, **options)

    def move_slot(self, e: AskError | MovedError) -> None:
        """Note the new node of a slot, which may have had none."""
        self.slots_cache.setdefault(int(e.slot_id), [])
        super().move_slot(e)

    def initialize(self, *args: Any, **options: Any) -> None:
        """Ask the nodes for their slots. Raises ``ClusterUnavailable``."""
        try:
            super().initialize(*args, **options)
        except IndexError as error:  # there is no primary
            raise ClusterUnavailable("no slot of the cluster is assigned") from error
        except RedisClusterException as error:
            raise ClusterUnavailable(str(error)) from error
