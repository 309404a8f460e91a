"""Scripts for many callers: calls of the same moment are sent together, on a cluster by node."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from berlin_worker.storage.cluster_scripts import AGAIN, ClusterScriptConnection
from berlin_worker.storage.script_connection import (
    Call,
    Groups,
    Outcomes,
    ScriptConnection,
    SharedScriptConnection,
    flat,
    outcomes_of,
)

if TYPE_CHECKING:
    from berlin_worker.storage.batcher import Batcher


class SharedClusterScripts(SharedScriptConnection):
    """Run scripts for many callers; calls of the same moment for one node are sent together.

    Each node has its own queue: a node that does not answer holds up its own calls alone. A call
    that a node refuses for the moment, since its slot moves, is repeated without the others.
    """

    _connection: ClusterScriptConnection

    def __init__(self, connection: ClusterScriptConnection) -> None:
        super().__init__(connection)
        self._queues: dict[str, Batcher[Sequence[Call], list[Any]]] = {}
        self._repeated: dict[str, Batcher[Sequence[Call], list[Any]]] = {}

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Return the replies to ``calls``, those for one node sent in this order.

        Raises the first error of redis-py among the replies, or that of a connection. All other
        calls have run, or are known to have failed, by then.
        """
        by_node: defaultdict[str, list[int]] = defaultdict(list)
        for at, call in enumerate(calls):
            by_node[self.node_of(call.keys[0])].append(at)
        if len(by_node) == 1:
            (node,) = by_node
            return await self._ask(node, calls)
        asked = [self._ask(node, [calls[at] for at in some]) for node, some in by_node.items()]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        replies: list[Any] = [None] * len(calls)
        for some, outcome in zip(by_node.values(), outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            for at, reply in zip(some, outcome, strict=True):
                replies[at] = reply
        return replies

    def node_of(self, key: str) -> str:
        """Return the node that serves a key; empty if no node is known to serve it."""
        return self._connection.node_of(key)

    async def _ask(self, node: str, calls: Sequence[Call]) -> list[Any]:
        queue = self._queues.get(node)
        if queue is None:
            queue = self._queues[node] = self._new_batcher(self._once)
        try:
            return await queue.ask(calls)
        except AGAIN:
            repeated = self._repeated.get(node)
            if repeated is None:
                repeated = self._repeated[node] = self._new_batcher(self._until_answered)
            return await repeated.ask(calls)

    async def _once(self, groups: Groups) -> Outcomes:
        return outcomes_of(groups, await self._connection.outcomes(flat(groups), within_s=0))

    async def _until_answered(self, groups: Groups) -> Outcomes:
        return outcomes_of(groups, await self._connection.outcomes(flat(groups)))


def shared_scripts(
    connection: ScriptConnection | ClusterScriptConnection,
) -> SharedScriptConnection:
    """Return what lets many callers share ``connection``."""
    if isinstance(connection, ClusterScriptConnection):
        return SharedClusterScripts(connection)
    return SharedScriptConnection(connection)
