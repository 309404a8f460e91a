"""The nodes of a cluster, as the jobs of a worker see them."""

import asyncio
from typing import Any

from berlin_schemas import names
from berlin_worker.storage.job_index import UNFINISHED
from berlin_worker.storage.redis_errors import unreachable
from berlin_worker.storage.script_connection import Call, SharedScriptConnection


class JobNodes:
    """Which node has a job, and whether any answers; ``scripts`` are those of the records."""

    def __init__(self, scripts: SharedScriptConnection) -> None:
        self._scripts = scripts
        self._asked: set[asyncio.Task[Any]] = set()

    def node_of(self, job_id: str) -> str:
        """Return the node that has the keys of a job; empty if that is not known."""
        return self._scripts.node_of(f"job:{{{job_id}}}:state")

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
