"""Send the lines of a batch: a bounded number in flight, results in the order of the lines."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from berlin_schemas import InvalidJob
from berlin_worker.cli.batch import lines as batch_lines
from berlin_worker.cli.batch.files import BatchOutput
from berlin_worker.cli.batch.lines import BadLine, KeptResult, Line
from berlin_worker.client import CursorExpired, JobFailed, JobIdReused, JobStatus, Result

_AHEAD: Final = 8
"""Results that may wait in memory for an earlier line: this many times the jobs in flight."""


class JobClient(Protocol):
    """The part of :class:`berlin_worker.client.AsyncClient` that a batch uses."""

    async def submit(self, prompt: dict[str, Any], *, job_id: str) -> str:
        """Put a job on the queue. A second call with the ID has no effect."""

    async def result(self, job_id: str) -> Result:
        """Wait for the end of a job and return its result."""

    async def status(self, job_id: str) -> JobStatus:
        """Return the status of a job."""


class Sender:
    """Sends lines and writes their results. ``on_result`` receives each new result."""

    def __init__(
        self,
        client: JobClient,
        files: BatchOutput,
        *,
        concurrency: int,
        on_result: Callable[[dict[str, Any]], None],
        skip: frozenset[int] = frozenset(),
    ) -> None:
        self._client = client
        self._files = files
        self._slots = asyncio.Semaphore(concurrency)
        self._ahead = concurrency * _AHEAD
        self._on_result = on_result
        self._skip = skip
        self._before = files.progress
        self._pending: deque[tuple[float, bool, asyncio.Task[dict[str, Any]]]] = deque()

    async def run(self, lines: Iterable[Line | BadLine | KeptResult]) -> None:
        """Send ``lines`` and write their results in order. Raises the errors of the client.

        If it ends early, jobs that were sent go on.
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

    def _begin(self, line: Line | BadLine | KeptResult) -> None:
        # An earlier run has sent this line already: its time counts.
        sent_before = line.number <= self._before.sent
        sent_ts = self._before.since if sent_before else time.time()
        kept = isinstance(line, KeptResult)
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
        await self._files.add(result)
        if new:
            self._on_result(result)

    async def _result(self, line: Line | BadLine | KeptResult) -> dict[str, Any]:
        if isinstance(line, KeptResult):
            return line.result
        if isinstance(line, BadLine):
            return batch_lines.refused(line, line.problem)
        if line.number in self._skip:
            return batch_lines.expired(line)
        try:
            await self._client.submit(line.job, job_id=line.job_id)
            return batch_lines.completed(line, await self._client.result(line.job_id))
        # The ID belongs to a job of another program, or RabbitMQ takes no message of that size.
        except (JobIdReused, InvalidJob) as error:
            return batch_lines.refused(line, str(error))
        except JobFailed as failed:
            return batch_lines.ended(line, failed.event)
        except CursorExpired:
            return batch_lines.expired(line)


async def without_trace(client: JobClient, lines: Iterable[Line | BadLine]) -> list[int]:
    """Return the numbers of the lines without a record in Redis."""
    sendable = [line for line in lines if isinstance(line, Line)]
    found = await asyncio.gather(*(client.status(line.job_id) for line in sendable))
    pairs = zip(sendable, found, strict=True)
    return [line.number for line, job in pairs if job.status == "unknown"]
