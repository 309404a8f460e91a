"""The nodes of a cluster, as the jobs of a worker see them."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from berlin_schemas import names
from berlin_worker.storage.cluster import AsyncCluster, uptime_s
from berlin_worker.storage.job_index import UNFINISHED, JobIndex
from berlin_worker.storage.redis_errors import unreachable
from berlin_worker.storage.script_connection import Call, SharedScriptConnection


class JobNodes:
    """Questions to the nodes: which has a job, which jobs are due by its entries, does any answer.

    ``scripts`` are those of the records. A postponed job is due again after ``again_ms``.
    """

    def __init__(
        self,
        cluster: AsyncCluster,
        scripts: SharedScriptConnection,
        index: JobIndex,
        *,
        again_ms: int,
    ) -> None:
        self._cluster = cluster
        self._scripts = scripts
        self._index = index
        self._again_ms = again_ms
        self._asked: set[asyncio.Task[Any]] = set()

    def node_of(self, job_id: str) -> str:
        """Return the node that has the keys of a job; empty if that is not known."""
        return self._scripts.node_of(f"job:{{{job_id}}}:state")

    def names(self) -> list[str]:
        """Return the primaries that serve slots, as ``host:port``; none before they are known."""
        return self._cluster.serving()

    async def take_turn(self, node: str, for_s: float) -> bool:
        """Return whether this caller alone searches ``node`` for the next ``for_s``.

        Raises ``ConnectionError``.
        """
        with unreachable():
            return await self._index.take_turn(for_s, node)

    async def due(self, node: str, limit: int) -> list[str]:
        """Return the IDs of up to ``limit`` jobs that are due by the entries at ``node``.

        Raises ``ConnectionError``.
        """
        with unreachable():
            return await self._index.find(limit, node)

    def postpone(self, job_ids: Sequence[str]) -> None:
        """Let jobs be due again after a lease."""
        for job_id in job_ids:
            self._index.look_again(job_id, self._again_ms)

    async def up_s(self, node: str) -> float:
        """Return the uptime of ``node`` in seconds; infinite if it has no INFO.

        Raises ``ConnectionError``.
        """
        with unreachable():
            try:
                return await uptime_s(self._cluster, node)
            except ResponseError:  # not every Redis service has INFO
                return math.inf

    async def heal(self, node: str) -> list[str]:
        """Restore lost entries of some jobs whose records are at ``node``.

        Returns the jobs whose entries cannot be written at present. Raises ``ConnectionError``.
        """
        with unreachable():
            return await self._index.heal(self._again_ms, node)

    async def answers(self) -> None:
        """Return as soon as any node answers; raises ``ConnectionError`` if none does."""
        keys = {self._scripts.node_of(key): key for key in names.DUE_KEYS}
        left = {self._ask(key) for key in keys.values()}
        with unreachable():
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                failed = [error for task in done if (error := task.exception()) is not None]
                if len(failed) < len(done):
                    return
                if not left:
                    raise failed[0]

    def _ask(self, key: str) -> asyncio.Task[Any]:
        # Not cancelled if another node is faster: that would cut a good connection.
        task = asyncio.create_task(self._scripts.run([Call(UNFINISHED, [key], ())]), name="answer")
        self._asked.add(task)
        task.add_done_callback(self._answered)
        return task

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._asked.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: another node may have answered
