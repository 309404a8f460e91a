"""Writes that no caller has to wait for: index entries, which are restored if they are lost."""

import asyncio
import functools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from berlin_worker.storage.redis_errors import is_temporary

PATIENCE_S: Final = 0.5
"""How long a caller waits for a node that has answered until now."""

Write = TypeVar("Write")


class AdvisoryWriter(Generic[Write]):
    """Send writes to the nodes of a cluster, and wait for none that does not answer.

    ``run`` sends writes of one node; its replies may hold errors. ``node_of`` names the node of a
    write. A node counts as silent while a write to it is under way whose caller has gone on. During
    that time no further write is sent to it.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Write]], Awaitable[Sequence[Any]]],
        node_of: Callable[[Write], str],
    ) -> None:
        self._run = run
        self._node_of = node_of
        self._under_way: set[asyncio.Task[Sequence[Any]]] = set()
        self._silent: set[str] = set()

    async def write(self, writes: Sequence[Write]) -> list[Write]:
        """Send ``writes``; return those that are not known to have been done.

        Raises the error of redis-py by which a node refuses a write for good.
        """
        by_node: defaultdict[str, list[Write]] = defaultdict(list)
        for each in writes:
            by_node[self._node_of(each)].append(each)
        missed = [each for node in by_node.keys() & self._silent for each in by_node[node]]
        tasks = {
            self._start(some): (node, some)
            for node, some in by_node.items()
            if node not in self._silent
        }
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE_S)
        for task, (node, some) in tasks.items():
            if not task.done():
                self._silent.add(node)
                task.add_done_callback(functools.partial(self._ended_late, node))
                missed += some
            elif failed := _failure(task):
                if not is_temporary(failed):
                    raise failed
                missed += some
        return missed

    async def aclose(self) -> None:
        """Cancel what is under way."""
        tasks = set(self._under_way)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, writes: Sequence[Write]) -> asyncio.Task[Sequence[Any]]:
        task = asyncio.ensure_future(self._run(writes))
        task.set_name("advisory-writes")
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Sequence[Any]]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: the caller may have gone on

    def _ended_late(self, node: str, _: asyncio.Task[Sequence[Any]]) -> None:
        self._silent.discard(node)


def _failure(task: asyncio.Task[Sequence[Any]]) -> Exception | None:
    """Return the error of a task that is done, or the first one among its replies."""
    if task.cancelled():
        return ConnectionError("the write was cancelled")
    error = task.exception()
    if error is not None:
        return error if isinstance(error, Exception) else ConnectionError(str(error))
    return next((reply for reply in task.result() if isinstance(reply, Exception)), None)
