"""Sending the lines of a batch: a bounded number in flight, the results in order."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from berlin_worker.cli.batch import lines as batch_lines
from berlin_worker.cli.batch.files import BatchOutput
from berlin_worker.cli.batch.lines import BadLine, Kept, Line
from berlin_worker.client import CursorExpired, JobFailed, JobIdReused, JobStatus, Result

_AHEAD: Final = 8
"""Results wait in memory for a slow one before them: at most so many times the jobs in flight."""


class JobClient(Protocol):
    """What is needed of :class:`berlin_worker.client.AsyncClient`."""

    async def submit(self, prompt: dict[str, Any], *, job_id: str) -> str:
        """Put a job on the queue, once for each ID."""

    async def result(self, job_id: str) -> Result:
        """Wait for the end of a job."""

    async def status(self, job_id: str) -> JobStatus:
        """How a job stands."""


class Batch:
    """One run over what is left of a batch. ``told`` is called with each new result."""

    def __init__(
        self,
        client: JobClient,
        files: BatchOutput,
        *,
        concurrency: int,
        told: Callable[[dict[str, Any]], None],
        skip: frozenset[int] = frozenset(),
    ) -> None:
        self._client = client
        self._files = files
        self._slots = asyncio.Semaphore(concurrency)
        self._ahead = concurrency * _AHEAD
        self._told = told
        self._skip = skip
        self._before = files.note
        self._pending: deque[tuple[float, bool, asyncio.Task[dict[str, Any]]]] = deque()

    async def run(self, lines: Iterable[Line | BadLine | Kept]) -> None:
        """Send ``lines`` and write their results in order; raises as the client does.

        Whatever ends it early leaves what was sent alone: the jobs go on.
        """
        try:
            for line in lines:
                await self._slots.acquire()
                while self._pending and (
                    self._pending[0][2].done() or len(self._pending) >= self._ahead
                ):
                    await self._write_first()
                self._begin(line)
            while self._pending:
                await self._write_first()
        finally:
            tasks = [task for _, _, task in self._pending]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, line: Line | BadLine | Kept) -> None:
        # What an earlier run has sent is as old as it was then.
        sent_before = line.number <= self._before.sent
        sent_ts = self._before.since if sent_before else time.time()
        kept = isinstance(line, Kept)
        if not kept:
            oldest = self._pending[0][0] if self._pending else sent_ts
            self._files.about_to_send(line.number, oldest)
        task = asyncio.create_task(self._result(line))
        task.add_done_callback(lambda _: self._slots.release())
        self._pending.append((sent_ts, not kept, task))

    async def _write_first(self) -> None:
        _, new, task = self._pending[0]
        result = await task
        self._pending.popleft()
        self._files.add(result)
        if new:
            self._told(result)

    async def _result(self, line: Line | BadLine | Kept) -> dict[str, Any]:
        if isinstance(line, Kept):
            return line.result
        if isinstance(line, BadLine):
            return batch_lines.refused(line, line.problem)
        if line.number in self._skip:
            return batch_lines.expired(line)
        try:
            await self._client.submit(line.job, job_id=line.job_id)
            return batch_lines.completed(line, await self._client.result(line.job_id))
        except JobIdReused as error:  # the ID was used outside of this batch
            return batch_lines.refused(line, str(error))
        except JobFailed as failed:
            return batch_lines.ended(line, failed.event)
        except CursorExpired:
            return batch_lines.expired(line)


async def without_trace(client: JobClient, lines: Iterable[Line | BadLine]) -> list[int]:
    """The numbers of those lines of which Redis has no record."""
    sendable = [line for line in lines if isinstance(line, Line)]
    found = await asyncio.gather(*(client.status(line.job_id) for line in sendable))
    pairs = zip(sendable, found, strict=True)
    return [line.number for line, job in pairs if job.status == "unknown"]
