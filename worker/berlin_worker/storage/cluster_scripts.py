"""Scripts on a Redis Cluster: one connection a node, and each call goes to the node of its slot."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import hiredis
import redis.asyncio
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from berlin_worker.storage.cluster import AsyncCluster, NodePool, key_of
from berlin_worker.storage.cluster_nodes import ClusterUnavailable
from berlin_worker.storage.script_connection import Call, ScriptCalls, ScriptConnection
from berlin_worker.telemetry.store_nodes import Observer

_TIMEOUT_S: Final = 5.0
_SPLIT_S: Final = 0.05
"""How long the calls of a run wait for one whose keys are at two nodes."""
_PAUSE_S: Final = (0.02, 0.3)
_LATER: Final = (TryAgainError, BusyLoadingError, ClusterDownError)
"""The slot moves, or has no server at the moment: the call has not run."""
AGAIN: Final = (
    *_LATER,
    *(AskError, ReadOnlyError, NoScriptError),
    *(RedisConnectionError, RedisTimeoutError, OSError),
)
"""The call has not run, or is not known to have run. A refused login is repeated, too: a node that
joins may not know the user yet."""


Command = tuple[Any, ...]


class Target(NamedTuple):
    """The destination of a call: a node as ``host:port``, after ASKING or not."""

    node: str
    asking: bool = False


class _Node:
    """The connection to one node, for one run at a time."""

    __slots__ = ("connection", "turn")

    def __init__(self, connection: ScriptConnection) -> None:
        self.connection = connection
        self.turn = asyncio.Lock()


class ClusterScriptConnection(ScriptCalls):
    """Run ``scripts`` on the nodes of ``cluster``.

    The calls of a run for one node are sent together. Nodes work side by side, and runs wait for
    each other at the same node alone. A call that a node redirects or refuses for the moment is
    repeated; so is one whose connection was lost, which may then run twice.
    """

    _node_kind = ScriptConnection

    def __init__(self, cluster: AsyncCluster, *scripts: str, observer: Observer = None) -> None:
        self._cluster = cluster
        self._scripts = scripts
        self._observer = observer
        self._nodes: dict[str, _Node] = {}

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Return the replies to ``calls``; a reply may be a ``ResponseError``.

        Raises redis-py's errors if a node cannot be reached for 5 s.
        """
        replies, error = await self._sent(calls, _TIMEOUT_S)
        if error is not None:
            raise error
        return replies

    async def outcomes(self, calls: Sequence[Call], *, within_s: float = _TIMEOUT_S) -> list[Any]:
        """Return the replies to ``calls``, and the error of redis-py for each that got none.

        No call is repeated once ``within_s`` would be over; with 0 each is sent once.
        """
        replies, _ = await self._sent(calls, within_s)
        return replies

    async def settled(self, calls: Sequence[Call]) -> list[Any]:
        """Return the replies to ``calls``; ``None`` stands for a call that has not run.

        That is one whose keys are at two nodes while its slot moves (TRYAGAIN). The others do not
        wait for it. Raises redis-py's errors, also for any other error reply.
        """
        replies, error = await self._sent(calls, _TIMEOUT_S, split_s=_SPLIT_S)
        if error is not None:
            raise error
        for reply in replies:
            if isinstance(reply, ResponseError) and not isinstance(reply, TryAgainError):
                raise reply
        return [None if isinstance(reply, TryAgainError) else reply for reply in replies]

    async def _sent(
        self, calls: Sequence[Call], within_s: float, *, split_s: float = _TIMEOUT_S
    ) -> tuple[list[Any], Exception | None]:
        # A repeated call reads its arguments again.
        calls = [
            call if isinstance(call.args, Sequence) else call._replace(args=tuple(call.args))
            for call in calls
        ]
        replies: list[Any] = [None] * len(calls)
        asking: dict[int, Target] = {}
        left: list[int] = list(range(len(calls)))
        clock = asyncio.get_running_loop().time
        began_s = clock()
        pause_s, longest_s = _PAUSE_S
        while left:
            error, late = await self._round(calls, left, asking, replies)
            left = [at for at in left if isinstance(replies[at], AGAIN)]
            if not left:
                break
            split = all(isinstance(replies[at], TryAgainError) for at in left)
            if clock() + pause_s > began_s + (min(split_s, within_s) if split else within_s):
                return replies, error
            if error is not None:
                await self._refresh()
            if error is not None or late:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, longest_s)
        return replies, None

    async def aclose(self) -> None:
        """Close the connections."""
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            await node.connection.aclose()

    def node_of(self, key: str) -> str:
        """Return the node that serves a key; empty if no node is known to serve it."""
        try:
            return self._cluster.node_of(key) if self._cluster.knows_slots else ""
        except SlotNotCoveredError:
            return ""

    async def _round(
        self,
        calls: Sequence[Call],
        left: Sequence[int],
        asking: dict[int, Target],
        replies: list[Any],
    ) -> tuple[Exception | None, bool]:
        """Send the calls ``left`` once; return the error of a node, and whether to wait."""
        by_target, failed = await self._by_target(calls, left, asking, replies)
        late = False
        work = [self._ask(target, [calls[at] for at in some]) for target, some in by_target.items()]
        # A lane of the journal has one node: without `gather`, which makes a task of each.
        outcomes = [await work[0]] if len(work) == 1 else await asyncio.gather(*work)
        for (target, some), outcome in zip(by_target.items(), outcomes, strict=True):
            if isinstance(outcome, Exception):
                failed = outcome
                outcome = [outcome] * len(some)  # noqa: PLW2901  # one shape for what follows
            for at, reply in zip(some, outcome, strict=True):
                replies[at] = reply
                if isinstance(reply, MovedError):
                    self._redirected(target, reply)
                    await self._cluster.nodes_manager.move_slot(reply)
                elif isinstance(reply, AskError):
                    self._redirected(target, reply)
                    asking[at] = Target(f"{reply.host}:{reply.port}", asking=True)
                elif isinstance(reply, ReadOnlyError):
                    failed = reply
                late = late or isinstance(reply, _LATER)
        return failed, late

    async def _by_target(
        self,
        calls: Sequence[Call],
        left: Sequence[int],
        asking: dict[int, Target],
        replies: list[Any],
    ) -> tuple[dict[Target, list[int]], Exception | None]:
        """Return the calls of each target, and an error of a node.

        In ``replies`` an error is in the place of each call that no node serves.
        """
        found: defaultdict[Target, list[int]] = defaultdict(list)
        failed: Exception | None = None
        # Not after each error, as redis-py would: the first node asked may be the one that hangs.
        if not self._cluster.knows_slots:
            try:
                await self._cluster.initialize()
            except (RedisError, OSError) as error:
                for at in left:
                    replies[at] = error
                return found, error
        for at in left:
            try:
                target = asking.pop(at) if at in asking else self._target(calls[at])
            except ClusterUnavailable as error:
                replies[at] = failed = error
            else:
                found[target].append(at)
        return found, failed

    def _target(self, call: Call) -> Target:
        try:
            return Target(self._cluster.node_of(call.keys[0]))
        except SlotNotCoveredError as error:
            raise ClusterUnavailable(str(error)) from error

    async def _ask(self, target: Target, calls: Sequence[Call]) -> list[Any] | RedisError | OSError:
        while True:
            node = self._nodes.get(target.node)
            if node is None:
                pool: Any = NodePool(self._cluster, target.node)
                node = _Node(self._node_kind(pool, *self._scripts, observer=self._observer))
                self._nodes[target.node] = node
            async with node.turn:
                if self._nodes.get(target.node) is not node:
                    continue  # it has failed meanwhile
                began_s = time.perf_counter()
                try:
                    replies = await node.connection.run(calls, asking=target.asking)
                except (RedisError, OSError) as error:
                    # It may be gone for good; a node that returns gets a new connection.
                    self._nodes.pop(target.node, None)
                    await node.connection.aclose()
                    return error
                if self._observer is not None:
                    self._observer.called(target.node, time.perf_counter() - began_s)
                return replies

    def _redirected(self, target: Target, reply: Exception) -> None:
        if self._observer is not None:
            self._observer.failed(target.node, reply)

    async def _refresh(self) -> None:
        try:
            await self._cluster.refresh()
        except (RedisError, OSError):
            return  # the next round raises it, or finds the nodes again


class _CommandConnection(ScriptConnection):
    """Runs commands: the "script" of a call is empty, and its arguments are the whole command."""

    def _packed(self, calls: Sequence[Call]) -> list[bytes]:
        return [hiredis.pack_command(tuple(args)) for _, _, args in calls]


class ClusterCommands(ClusterScriptConnection):
    """Runs commands of one slot each, as :class:`ClusterScriptConnection` runs scripts."""

    _node_kind = _CommandConnection

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to ``commands``; an error reply stands in its place.

        Raises redis-py's errors if a node cannot be reached.
        """
        return await self.run([_as_call(command) for command in commands])

    async def outcomes_of(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to ``commands``; an error is in the place of a missing reply."""
        return await self.outcomes([_as_call(command) for command in commands])

    async def node_of_command(self, command: Command) -> str:
        """Return the node that serves a command; empty if no node is known to serve it.

        The slots are asked for if they are not known yet.
        """
        if not self._cluster.knows_slots:
            with contextlib.suppress(RedisError, OSError):
                await self._cluster.initialize()
        return self.node_of(str(key_of(command)))


def _as_call(command: Command) -> Call:
    return Call("", (str(key_of(command)),), command)


def script_connection(
    client: redis.asyncio.Redis, *scripts: str, observer: Observer = None
) -> ScriptConnection | ClusterScriptConnection:
    """Return what runs ``scripts`` for ``client``: a server's, or a cluster's."""
    if isinstance(client, AsyncCluster):
        return ClusterScriptConnection(client, *scripts, observer=observer)
    return ScriptConnection(client.connection_pool, *scripts, observer=observer)
