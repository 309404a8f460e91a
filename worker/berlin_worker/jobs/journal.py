"""The log of every job: append and publish in one step, fenced, batched.

All jobs of a process share one :class:`Journal`. Its writer sends what has gathered
since the last reply came back: no timer, so nothing waits when it is idle, and
batches grow under load by themselves. The buffer is bounded: when Redis is slow,
``wait_for_room`` holds the reader of the upstream.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from berlin_schemas import Event, Terminal, encode, names
from berlin_worker.errors import Fenced
from berlin_worker.jobs import lifecycle
from berlin_worker.telemetry.stats import Stats

logger = logging.getLogger(__name__)

_BATCH_BYTES: Final = 512 * 1024
"""A script call holds up the server while it runs: about 5 ms for this much."""
_RETRY_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
_quote = json.encoder.encode_basestring


class Store(Protocol):
    """Where batches go. Raises ``ConnectionError`` while it cannot be reached or is full."""

    async def append(self, batch: "list[Batch]") -> list[bool]:
        """Take the batches atomically, each at most once; ``False`` marks a refused one."""


class Batch:
    """Consecutive events of one job on their way to the store.

    ``new_chunks`` are those of this batch, ``chunks`` those of the log since its last reset.
    """

    __slots__ = ("chunks", "ending", "events", "first_seq", "log", "new_chunks", "size")

    def __init__(self, log: "JobLog", first_seq: int) -> None:
        self.log = log
        self.first_seq = first_seq
        self.events: list[bytes] = []
        self.size = 0
        self.chunks = 0
        self.new_chunks = 0
        self.ending = ""


class JobLog:
    """The log of one job, as one attempt writes it.

    When the store refuses the attempt, ``on_fenced`` is called, once: it should stop the
    work. Where the work waits in :meth:`flush` or :meth:`end`, that raises :class:`Fenced`
    instead. From then on every append raises it. ``error`` is the code it has failed with.
    """

    __slots__ = (
        "_chunk_head", "_flushed", "_journal", "_on_fenced", "_pending", "_settled_seq",
        "attempt", "chunks", "error", "fenced", "job_id", "phase", "seq",
    )  # fmt: skip

    def __init__(
        self,
        journal: "Journal",
        job_id: str,
        attempt: int,
        *,
        seq: int,
        chunks: int,
        on_fenced: Callable[[], object],
    ) -> None:
        self._journal = journal
        self._on_fenced = on_fenced
        self._pending: Batch | None = None
        self._flushed: asyncio.Future[None] | None = None
        self._settled_seq = seq
        self._chunk_head = f'{{"v":1,"job_id":"{job_id}","attempt":{attempt},"type":"chunk"'
        if journal.database:
            self._chunk_head += f',"db":{journal.database}'
        self.job_id = job_id
        self.attempt = attempt
        self.seq = seq
        self.chunks = chunks
        self.phase = lifecycle.phase_of(seq, chunks)
        self.fenced = False
        self.error = ""

    def chunk(self, deltas: Iterable[str]) -> None:
        """Append a chunk event for each delta.

        The bytes are put together by hand, since this is the hot path; a test holds them
        against the model. Half a surrogate pair, which no UTF-8 can carry, becomes ``?``.
        Empty deltas are left out: the contract has none. Raises ``TypeError`` for what is
        no text, and then nothing of ``deltas`` is appended.
        """
        head = f'{self._chunk_head},"ts":{time.time():.6f},"seq":'
        seq, size, events = self.seq, 0, []
        for delta in deltas:
            if delta == "":
                continue
            seq += 1
            data = f'{head}{seq},"content":{_quote(delta)}}}'.encode("utf-8", "replace")
            events.append(data)
            size += len(data)
        if not events:
            return
        batch = self._batch()
        self.phase = lifecycle.advance(self.phase, "chunk")
        batch.events += events
        new = seq - self.seq
        batch.new_chunks += new
        self.chunks += new
        self.seq = seq
        self._added(batch, size)

    def event(self, event: Event) -> None:
        """Append any other event; its ``seq`` is ``next_seq``.

        Raises ``ValueError`` for an event that JSON cannot hold, and then appends nothing.
        """
        if self._journal.database:
            event = event.model_copy(update={"db": self._journal.database})
        data = encode(event)
        batch = self._batch()
        self.phase = lifecycle.advance(self.phase, event.type)
        if self.phase is lifecycle.Phase.OVER:
            batch.ending = event.type
            self.error = event.error.code.value if event.type == "failed" else ""
        elif event.type == "reset":
            self.chunks = 0
        batch.events.append(data)
        self.seq += 1
        self._added(batch, len(data))

    async def end(self, event: Terminal) -> None:
        """Append the terminal event and wait until the store has all; raises ``Fenced``."""
        self.event(event)
        await self.flush()

    async def flush(self) -> None:
        """Wait until the store has all that was appended; raises ``Fenced`` if it refused."""
        if self.fenced:
            raise Fenced(self.job_id)
        if self._settled_seq < self.seq:
            self._flushed = asyncio.get_running_loop().create_future()
            await self._flushed

    @property
    def next_seq(self) -> int:
        """The ``seq`` of the next event."""
        return self.seq + 1

    def settle(self, batch: Batch, *, taken: bool) -> None:
        """The store has answered for ``batch`` (called by the journal)."""
        self._settled_seq = batch.first_seq + len(batch.events) - 1
        waiter = self._flushed if self._flushed and not self._flushed.done() else None
        if not taken and not self.fenced:
            self.fenced = True
            if self._pending is not None:
                self._journal.forget(self._pending)
                self._pending = None
            if waiter is None:
                self._on_fenced()
        if self.fenced or (self.phase is lifecycle.Phase.OVER and self._settled_seq == self.seq):
            # Else the attempt, its task and this log would wait for the garbage collector.
            self._on_fenced = _nobody
        if waiter is not None:
            if self.fenced:
                waiter.set_exception(Fenced(self.job_id))
            elif self._settled_seq == self.seq:
                waiter.set_result(None)

    def take(self) -> Batch:
        """Hand over what has gathered (called by the journal)."""
        batch, self._pending = self._pending, None
        assert batch is not None  # only a log with pending events is in the journal's queue
        batch.chunks = self.chunks
        return batch

    def _batch(self) -> Batch:
        if self.fenced:
            raise Fenced(self.job_id)
        if self._pending is None:
            self._pending = Batch(self, self.next_seq)
        return self._pending

    def _added(self, batch: Batch, size: int) -> None:
        first = batch.size == 0
        batch.size += size
        self._journal.added(self, size, first=first)


def _nobody() -> None:
    """There is no work to stop any more."""


class Journal:
    """One writer for all logs of a process. ``buffer_bytes`` bounds what waits for the store.

    ``database`` is the number of the store's database on its server: events name it.
    """

    def __init__(
        self, store: Store, *, buffer_bytes: int, stats: Stats | None = None, database: int = 0
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
        """The log of a job for one attempt, from what the claim told of it."""
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
        """``log`` has more to send (called by the log)."""
        self.buffered_bytes += size
        self._idle.clear()
        if self.buffered_bytes > self._limit:
            self.stats.journal_full += self._room.is_set()
            self._room.clear()
        if first:
            self._queue.append(log)
            self._wake.set()

    def forget(self, batch: Batch) -> None:
        """``batch`` will not be sent (called by the log)."""
        with contextlib.suppress(ValueError):
            self._queue.remove(batch.log)
        self._freed(batch.size)

    async def run(self) -> None:
        """The writer: runs until it is cancelled."""
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
        """Return when nothing waits for the store any more."""
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
        # Lists, not loops: where each batch holds one chunk this is done for each chunk.
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
                # Sent again as it is: the store skips what it has taken already.
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
