"""All readers of a client on a Redis Cluster: one connection to each node, for its channels.

A channel moves with its slot: the node that loses it ends the subscription, and the node that has
it now gets a new one. The readers of a channel that has moved get a signal to read the log.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, RedisError, SlotNotCoveredError

from berlin_worker.client.channel_registry import ChannelRegistry
from berlin_worker.client.resp3 import Resp3Connection, fail
from berlin_worker.client.subscription import Channel
from berlin_worker.client.subscriptions import SubscriptionManager
from berlin_worker.storage.cluster import AsyncCluster
from berlin_worker.storage.redis_errors import refusal

logger = logging.getLogger(__name__)

_PAUSE_S: Final = (0.02, 1.0)


class _NodeSubscriptions(SubscriptionManager):
    """The channels of one node."""

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        *,
        reread_after_s: float,
        on_moved: Callable[[bytes], None],
        on_lost: Callable[[], None],
    ) -> None:
        super().__init__(connect, _ask_nothing, buffer_bytes=0, reread_after_s=reread_after_s)
        self._moved = on_moved
        self._on_lost = on_lost  # type: ignore[method-assign]  # a hook of this object alone

    def adopt(self, name: bytes, channel: Channel) -> None:
        """Subscribe ``channel`` here."""
        self._channels[name] = channel
        self._change(name)
        self._start()

    def drop(self, name: bytes) -> None:
        """Unsubscribe a channel, if this node still has it."""
        if self._channels.pop(name, None) is not None:
            self._change(name)

    def again(self, name: bytes) -> None:
        """Subscribe a channel again that this node has refused, or ended."""
        if name in self._channels:
            self._change(name)

    @property
    def is_empty(self) -> bool:
        """Whether no channel is here."""
        return not self._channels

    def _new_connection(self) -> Resp3Connection:
        return Resp3Connection(
            self._connect(), self._deliver, self._on_subscribed, self._on_channel_moved
        )

    def _on_channel_moved(self, name: bytes, refused: bool) -> None:
        self._unanswered[name] -= refused
        if self._unanswered[name] > 0:
            return  # a later SSUBSCRIBE is under way: its answer decides
        del self._unanswered[name]
        self._subscribed.discard(name)
        if name in self._channels:
            self._moved(name)


class ClusterSubscriptions(ChannelRegistry):
    """Subscribes at the nodes of a cluster; otherwise as :class:`SubscriptionManager`."""

    def __init__(
        self,
        cluster: AsyncCluster,
        readers_of: Callable[[str], Callable[[], AbstractConnection]],
        *,
        buffer_bytes: int,
        reread_after_s: float,
    ) -> None:
        super().__init__(buffer_bytes=buffer_bytes)
        self._cluster = cluster
        self._readers_of = readers_of
        self._reread_after_s = reread_after_s
        self._homes: dict[bytes, str] = {}
        self._nodes: dict[str, _NodeSubscriptions] = {}
        self._unplaced: set[bytes] = set()
        self._ended: set[bytes] = set()
        """Channels without a subscription at the node where they are."""
        self._stale = False
        """Whether a node was lost or has lost slots since the nodes were last asked for them."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Close the connections; readers that still wait get a ``ClientError``."""
        self._close_readers()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for node in self._nodes.values():
            await node.aclose()

    def _added(self, name: bytes) -> None:
        self._place_later(name)

    def _removed(self, name: bytes) -> None:
        if (home := self._homes.pop(name, None)) is not None:
            self._nodes[home].drop(name)

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="berlin-client-slots")

    def _place_later(self, name: bytes) -> None:
        self._unplaced.add(name)
        self._wake.set()

    def _on_moved(self, name: bytes) -> None:
        self._ended.add(name)
        self._stale = True
        self._place_later(name)

    def _on_lost(self, node: str) -> None:
        self._stale = True
        self._unplaced.update(name for name, home in self._homes.items() if home == node)
        self._wake.set()

    async def _run(self) -> None:
        pause_s, longest_s = _PAUSE_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            names, self._unplaced = self._unplaced, set()
            try:
                settled = await self._place(names)
            except (RedisError, OSError) as error:
                settled = False
                self._unplaced |= names
                self._refuse(names, error)
            except Exception:
                logger.exception("channels cannot be placed: trying again")
                settled = False
                self._unplaced |= names
            if settled:
                pause_s = _PAUSE_S[0]
                continue
            self._wake.set()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
            pause_s = min(pause_s * 2, longest_s)

    async def _place(self, names: set[bytes]) -> bool:
        """Move channels to the nodes of their slots; return whether all are there."""
        await self._cluster.initialize()
        if self._stale:
            self._stale = False
            await self._cluster.refresh()
        settled = True
        for name in names:
            channel = self._channels.get(name)
            if channel is None:
                self._ended.discard(name)
                continue
            try:
                node = self._cluster.node_of(name)
            except SlotNotCoveredError:
                node = None
            if node is None or (node == self._homes.get(name) and name in self._ended):
                # The node will be known, or serve the slot, in a moment.
                settled = False
                self._stale = True
            if node is None:
                self._unplaced.add(name)
            elif node != self._homes.get(name):
                self._move(name, channel, node)
            elif name in self._ended:
                self._ended.discard(name)
                self._nodes[node].again(name)
        await self._close_unused()
        return settled

    def _move(self, name: bytes, channel: Channel, node: str) -> None:
        self._ended.discard(name)
        if (home := self._homes.get(name)) is not None:
            self._nodes[home].drop(name)
        if node not in self._nodes:
            self._nodes[node] = _NodeSubscriptions(
                self._readers_of(node),
                reread_after_s=self._reread_after_s,
                on_moved=self._on_moved,
                on_lost=lambda: self._on_lost(node),
            )
        self._homes[name] = node
        self._nodes[node].adopt(name, channel)

    async def _close_unused(self) -> None:
        """Close the connections to nodes that have left the cluster, or its slots."""
        primaries = {node.name for node in self._cluster.get_primaries()}
        for name in [name for name in self._nodes if name not in primaries]:
            if self._nodes[name].is_empty:
                await self._nodes.pop(name).aclose()

    def _refuse(self, names: set[bytes], error: RedisError | OSError) -> None:
        """Fail the readers of new channels, if waiting does not help."""
        if not (isinstance(error, AuthenticationError) or refusal(error)):
            return
        for name in names & self._channels.keys():
            channel = self._channels[name]
            if not channel.acknowledged.done():
                fail(channel.acknowledged, error)
                channel.acknowledged = self._loop.create_future()


async def _ask_nothing(_commands: Any) -> list[Any]:
    raise NotImplementedError("logs are read over other connections")
