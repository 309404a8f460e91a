"""One lane of the journal: it sends the events of its logs, one batch at a time.

When idle it sends at once, and under load the batches grow. Lanes of several nodes also take
turns of a clock. The buffer is bounded: if the store is slow, ``wait_for_room`` stops the readers
of the upstream.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from berlin_worker.jobs.job_log import Batch, JobLog
from berlin_worker.telemetry.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_BATCH_BYTES: Final = 512 * 1024
"""The most for one script call, which blocks the server while it runs: about 5 ms."""
_RETRY_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class EventStore(Protocol):
    """The store of job logs. Raises ``ConnectionError`` while it cannot be reached or is full."""

    async def append(self, batch: list[Batch]) -> list[bool | None]:
        """Append the batches atomically, each at most once; ``False`` marks a refused one.

        On a cluster each batch is a step of its own. ``None`` marks one to send again unchanged:
        the slot of its job moves.
        """


class Lane:
    """The writer of some logs; ``limit`` bounds its buffer, in bytes.

    ``turn_s``: the clock is divided into turns of so many seconds, and the lane begins at most one
    batch in each. With 0 it begins a batch as soon as it has the reply to the last one. The turns
    of all lanes begin at the same moments.

    ``moved`` gives a log to another lane and returns true, if the log belongs there by now. The
    lane calls it before each batch, since only then no event of the log is on its way.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        limit: int,
        stats: Stats,
        turn_s: float = 0.0,
        moved: "Callable[[JobLog, Lane], bool] | None" = None,
    ) -> None:
        self._store = store
        self.limit = limit
        self._stats = stats
        self._turn_s = turn_s
        self._sent_at = -math.inf
        self._moved = moved
        self._queue: deque[JobLog] = deque()
        self._put_off: dict[JobLog, _PutOff] = {}
        self._again: deque[Batch] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.buffered_bytes = 0

    @property
    def full(self) -> bool:
        """Whether a reader of the upstream should stop until there is room."""
        return not self._room.is_set()

    async def wait_for_room(self) -> None:
        """Return as soon as the buffer is below its bound."""
        await self._room.wait()

    async def drained(self) -> None:
        """Return when the buffer is empty."""
        await self._idle.wait()

    def added(self, log: JobLog, size: int, *, first: bool) -> None:
        """Note that ``log`` has ``size`` bytes more to send; ``first``: it had none before."""
        self.buffered_bytes += size
        self._idle.clear()
        if self.buffered_bytes > self.limit:
            self._stats.journal_full += self._room.is_set()
            self._room.clear()
        if first:
            self._queue.append(log)
            self._wake.set()

    def freed(self, size: int) -> None:
        """Note that ``size`` bytes are sent, or will not be."""
        self.buffered_bytes -= size
        if self.buffered_bytes <= self.limit:
            self._room.set()
        if self.buffered_bytes == 0:
            self._idle.set()

    def forget(self, batch: Batch) -> None:
        """Note that ``batch`` will not be sent."""
        self.leave_out(batch.log)
        self.freed(batch.size)

    def leave_out(self, log: JobLog) -> None:
        """Take nothing of ``log`` until it is added again."""
        with contextlib.suppress(ValueError):
            self._queue.remove(log)

    async def run(self) -> None:
        """Send the events of all logs, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue or self._again:
                if self._turn_s and self.buffered_bytes < _BATCH_BYTES:
                    await asyncio.sleep(left_of_turn(self._turn_s, self._sent_at, time.monotonic()))
                batches = self._take()
                if not batches:
                    continue
                self._sent_at = time.monotonic()
                replies = await self._send(batches)
                self._count(batches, replies, time.monotonic() - self._sent_at)
                for batch, taken in zip(batches, replies, strict=True):
                    if taken is None:
                        self._repeat_later(batch)
                        continue
                    if self._put_off and (waiting := self._put_off.pop(batch.log, None)):
                        waiting.end(batch, taken=taken)
                    else:
                        batch.log.settle(batch, taken=taken)
                    self.freed(batch.size)

    def _repeat_later(self, batch: Batch) -> None:
        log = batch.log
        waiting = self._put_off.get(log)
        if waiting is None:
            logger.warning("the slot of job %s moves, its events wait", log.job_id)
            waiting = self._put_off[log] = _PutOff(self, log)
        wait_s = _RETRY_S[min(waiting.tries, len(_RETRY_S) - 1)]
        waiting.tries += 1
        asyncio.get_running_loop().call_later(wait_s, self._repeat, batch)

    def _repeat(self, batch: Batch) -> None:
        self._again.append(batch)
        self._wake.set()

    def _take(self) -> list[Batch]:
        batches, size = [], 0
        while self._again and size < _BATCH_BYTES:
            batches.append(self._again.popleft())
            size += batches[-1].size
        while self._queue and size < _BATCH_BYTES:
            log = self._queue.popleft()
            if self._moved is not None and self._moved(log, self):
                continue
            batch = log.take()
            batches.append(batch)
            size += batch.size
        return batches

    def _count(self, batches: list[Batch], replies: list[bool | None], took_s: float) -> None:
        if None in replies:
            batches = [
                each for each, taken in zip(batches, replies, strict=True) if taken is not None
            ]
            replies = [taken for taken in replies if taken is not None]
        stats, sent_bytes = self._stats, sum([batch.size for batch in batches])
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

    async def _send(self, batches: list[Batch]) -> list[bool | None]:
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


class _PutOff:
    """The writer of a log with a batch to repeat. The log is not in the queue, so its order holds.

    It is full, so that the job does not fill the buffer of the others.
    """

    full = True

    def __init__(self, lane: Lane, log: JobLog) -> None:
        self._lane = lane
        self._log = log
        self._ended = asyncio.Event()
        self.tries = 0
        lane.leave_out(log)
        log.writer = self

    async def wait_for_room(self) -> None:
        """Return as soon as the batch is sent, and the lane has room."""
        await self._ended.wait()
        await self._lane.wait_for_room()

    def added(self, log: JobLog, size: int, *, first: bool) -> None:  # noqa: ARG002  # the protocol's
        """Note that ``log`` has ``size`` bytes more to send."""
        self._lane.added(log, size, first=False)

    def forget(self, batch: Batch) -> None:
        """Note that ``batch`` will not be sent."""
        self._lane.forget(batch)

    def end(self, batch: Batch, *, taken: bool) -> None:
        """Give the log back to the lane, with the reply for the batch."""
        self._log.writer = self._lane
        self._log.settle(batch, taken=taken)
        if self._log.waits:
            self._lane.added(self._log, 0, first=True)
        self._ended.set()


def left_of_turn(turn_s: float, sent_at: float, now: float) -> float:
    """Return the seconds until the turn after that of ``sent_at`` begins; 0 if it has (pure)."""
    if now - sent_at >= turn_s:
        return 0.0
    return max((sent_at // turn_s + 1) * turn_s - now, 0.0)
