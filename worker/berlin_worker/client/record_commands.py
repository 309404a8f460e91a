"""The commands by which a client writes records and indexes: on one server, and on a cluster."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, Protocol

from redis.asyncio import Redis

from berlin_worker.storage import connections
from berlin_worker.storage.advisory import AdvisoryWriter
from berlin_worker.storage.cluster import key_of
from berlin_worker.storage.cluster_scripts import ClusterCommands
from berlin_worker.storage.connections import Command

_READ_S: Final = 2.0
_SILENT_S: Final = 5.0


class RecordCommands(Protocol):
    """Runs commands on records and indexes."""

    async def outcomes(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to ``commands``; an error stands in the place of a missing one.

        Raises redis-py's errors if the only server cannot be reached.
        """

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies as :meth:`outcomes` does, but wait for no node longer than 2 s."""

    async def node_of(self, command: Command) -> str:
        """Return the node of a cluster that a command goes to; empty for the only server."""

    async def write_index(self, commands: Sequence[Command]) -> None:
        """Write to the indexes of a cluster, and wait for no node that does not answer.

        Raises the error of redis-py by which a node refuses a write for good.
        """

    async def aclose(self) -> None:
        """Cancel what is under way."""


class ServerCommands(RecordCommands):
    """The commands on one server."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def outcomes(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies; raises redis-py's errors if the server cannot be reached."""
        return await connections.ask(self._redis, commands)

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies; raises redis-py's errors if the server cannot be reached."""
        return await self.outcomes(commands)

    async def node_of(self, command: Command) -> str:  # noqa: ARG002  # a cluster needs it
        """Return the name of the only server, which is empty."""
        return ""

    async def write_index(self, commands: Sequence[Command]) -> None:
        """Write to the indexes; raises redis-py's errors."""
        for reply in await self.outcomes(commands):
            if isinstance(reply, Exception):
                raise reply

    async def aclose(self) -> None:
        """Do nothing: nothing is under way."""


class NodeCommands(RecordCommands):
    """The commands on the nodes of a cluster.

    An index entry at a node that does not answer is left out. A worker writes it when it claims
    the job, or restores it from the record.
    """

    def __init__(self, commands: ClusterCommands) -> None:
        self._commands = commands
        self._silent_until: dict[str, float] = {}
        self._writer: AdvisoryWriter[Command] = AdvisoryWriter(
            commands.outcomes_of, lambda command: commands.node_of(key_of(command))
        )

    async def outcomes(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, and the error of each command that got none."""
        return await self._commands.outcomes_of(commands)

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies; one that has not come within 2 s is a ``TimeoutError``.

        A node that has not answered is not waited for again for 5 s.
        """
        clock = asyncio.get_running_loop().time
        by_node: defaultdict[str, list[int]] = defaultdict(list)
        for at, command in enumerate(commands):
            by_node[self._commands.node_of(str(key_of(command)))].append(at)
        tasks = {
            asyncio.create_task(self.outcomes([commands[at] for at in some])): (node, some)
            for node, some in by_node.items()
            if clock() >= self._silent_until.get(node, 0.0)
        }
        replies: list[Any] = [TimeoutError("the node of the cluster does not answer")]
        replies *= len(commands)
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=_READ_S)
            for task, (node, some) in tasks.items():
                if not task.done():
                    self._silent_until[node] = clock() + _SILENT_S
                else:
                    for at, reply in zip(some, task.result(), strict=True):
                        replies[at] = reply
        finally:
            for task in tasks:
                task.cancel()
        return replies

    async def node_of(self, command: Command) -> str:
        """Return the node; asks for the slots if they are not known yet."""
        return await self._commands.node_of_command(command)

    async def write_index(self, commands: Sequence[Command]) -> None:
        """Write to the indexes as far as their nodes answer."""
        await self._writer.write(commands)

    async def aclose(self) -> None:
        """Cancel what is under way."""
        await self._writer.aclose()
