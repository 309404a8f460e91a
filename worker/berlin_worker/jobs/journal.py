"""The writer of all job logs of a process: append and publish in one step, fenced, batched.

It sends all events that were appended since the last reply. It has no timer: when idle it sends
at once, and under load the batches grow. The buffer is bounded: if Redis is slow,
``wait_for_room`` stops the reader of the upstream.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from berlin_schemas import names
from berlin_worker.jobs.job_log import Batch, JobLog
from berlin_worker.telemetry.stats import Stats

logger = logging.getLogger(__name__)

_BATCH_BYTES: Final = 512 * 1024
"""The most for one script call, which blocks the server while it runs: about 5 ms."""
_RETRY_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class EventStore(Protocol):
    """The store of job logs. Raises ``ConnectionError`` while it cannot be reached or is full."""

    async def append(self, batch: list[Batch]) -> list[bool]:
        """Append the batches atomically, each at most once; ``False`` marks a refused one."""


class Journal:
    """One writer for all logs of a process; ``buffer_bytes`` bounds its buffer.

    ``database`` is the number of the store's database on its server; events name it.
    """

    def __init__(
        self, store: EventStore, *, buffer_bytes: int, stats: Stats | None = None, database: int = 0
    ) -> None:
        self._store = store
        self.database = database
        self._limit = buffer_bytes
        self.stats = stats or Stats()
        self._queue: deque[JobLog] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.buffered_bytes = 0

    def open(
        self, job_id: str, attempt: int, *, seq: int, chunks: int, on_fenced: Callable[[], object]
    ) -> JobLog:
        """Return the log of a job for one attempt; ``seq`` and ``chunks`` come from its claim."""
        names.check_job_id(job_id)
        return JobLog(self, job_id, attempt, seq=seq, chunks=chunks, on_fenced=on_fenced)

    @property
    def full(self) -> bool:
        """Whether a reader of the upstream should stop until there is room."""
        return not self._room.is_set()

    async def wait_for_room(self) -> None:
        """Return as soon as the buffer is below its bound."""
        await self._room.wait()

    def added(self, log: JobLog, size: int, *, first: bool) -> None:
        """Note that ``log`` has ``size`` bytes more to send; ``first``: it had none before."""
        self.buffered_bytes += size
        self._idle.clear()
        if self.buffered_bytes > self._limit:
            self.stats.journal_full += self._room.is_set()
            self._room.clear()
        if first:
            self._queue.append(log)
            self._wake.set()

    def forget(self, batch: Batch) -> None:
        """Note that ``batch`` will not be sent."""
        with contextlib.suppress(ValueError):
            self._queue.remove(batch.log)
        self._freed(batch.size)

    async def run(self) -> None:
        """Send the events of all logs, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batches = self._take()
                sent_at = time.monotonic()
                replies = await self._send(batches)
                self._count(batches, replies, time.monotonic() - sent_at)
                for batch, taken in zip(batches, replies, strict=True):
                    batch.log.settle(batch, taken=taken)
                    self._freed(batch.size)

    async def drained(self) -> None:
        """Return when the buffer is empty."""
        await self._idle.wait()

    def _take(self) -> list[Batch]:
        batches, size = [], 0
        while self._queue and size < _BATCH_BYTES:
            batch = self._queue.popleft().take()
            batches.append(batch)
            size += batch.size
        return batches

    def _count(self, batches: list[Batch], replies: list[bool], took_s: float) -> None:
        stats, sent_bytes = self.stats, sum([batch.size for batch in batches])
        stats.flush.observe(took_s)
        stats.flush_bytes.observe(sent_bytes)
        if False in replies:
            stats.fenced += replies.count(False)
            batches = [batch for batch, taken in zip(batches, replies, strict=True) if taken]
            sent_bytes = sum([batch.size for batch in batches])
        # Lists, not loops: if each batch holds one chunk, this runs for each chunk.
        stats.chunks += sum([batch.new_chunks for batch in batches])
        stats.events += sum([len(batch.events) for batch in batches])
        stats.event_bytes += sent_bytes
        for batch in [batch for batch in batches if batch.ending]:
            stats.jobs.add(batch.ending, batch.log.error)

    async def _send(self, batches: list[Batch]) -> list[bool]:
        tries = 0
        while True:
            try:
                return await self._store.append(batches)
            except ConnectionError as error:
                # Sent again unchanged: the store skips batches that it has appended already.
                wait_s = _RETRY_S[min(tries, len(_RETRY_S) - 1)]
                if tries == 0:
                    logger.warning("the event store does not answer, events wait: %s", error)
                tries += 1
                await asyncio.sleep(wait_s)

    def _freed(self, size: int) -> None:
        self.buffered_bytes -= size
        if self.buffered_bytes <= self._limit:
            self._room.set()
        if self.buffered_bytes == 0:
            self._idle.set()
