"""The log of one job as one attempt writes it: batches of events on their way to the store."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from berlin_schemas import Event, Terminal, encode
from berlin_worker.errors import Fenced
from berlin_worker.jobs import lifecycle
from berlin_worker.providers.deltas import Delta, ReasoningDelta, ToolCallDelta

_quote = json.encoder.encode_basestring


class Writer(Protocol):
    """The part of the journal that a log uses."""

    def added(self, log: "JobLog", size: int, *, first: bool) -> None:
        """Note that ``log`` has ``size`` bytes more to send; ``first``: it had none before."""

    def forget(self, batch: "Batch") -> None:
        """Note that ``batch`` will not be sent."""

    @property
    def full(self) -> bool:
        """Whether a reader of the upstream should stop until there is room."""

    async def wait_for_room(self) -> None:
        """Return as soon as there is room."""


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

    If the store refuses the attempt, the log calls ``on_fenced`` once, which should stop the work.
    If the work waits in :meth:`flush` or :meth:`end`, these raise :class:`Fenced` instead. After
    that every append raises ``Fenced``. ``error`` is the error code of a failed job. ``writer``
    sends the events, which name the ``database``.
    """

    __slots__ = (
        "_chunk_head", "_database", "_flushed", "_on_fenced", "_pending", "_settled_seq",
        "attempt", "chunks", "error", "fenced", "job_id", "owner", "phase", "seq", "writer",
    )  # fmt: skip

    def __init__(
        self,
        writer: "Writer",
        job_id: str,
        attempt: int,
        *,
        owner: str,
        seq: int,
        chunks: int,
        on_fenced: Callable[[], object],
        database: int = 0,
    ) -> None:
        self.writer = writer
        self._database = database
        self._on_fenced = on_fenced
        self._pending: Batch | None = None
        self._flushed: asyncio.Future[None] | None = None
        self._settled_seq = seq
        self.job_id = job_id
        self.attempt = attempt
        self.owner = owner
        self._chunk_head = self._head_of("chunk")
        self.seq = seq
        self.chunks = chunks
        self.phase = lifecycle.phase_of(seq, chunks)
        self.fenced = False
        self.error = ""

    def chunk(self, deltas: Iterable[Delta]) -> None:
        """Append an event for each delta: ``chunk``, ``reasoning`` or ``tool_call``.

        The JSON is formatted by hand, since this is the hot path; a test compares it with the
        model. Half a surrogate pair, which UTF-8 cannot encode, becomes ``?``. Empty deltas are
        left out, as the contract requires. Raises ``TypeError`` for what is no delta, and
        then appends none of ``deltas``.
        """
        now = f'"ts":{time.time():.6f},"seq":'
        head = f"{self._chunk_head},{now}"
        seq, size, events = self.seq, 0, []
        for delta in deltas:
            if isinstance(delta, str):
                if delta == "":
                    continue
                text = f'{head}{seq + 1},"content":{_quote(delta)}}}'
            else:
                kind, fields = _fields_of(delta)
                if not fields:
                    continue
                text = f"{self._head_of(kind)},{now}{seq + 1},{fields}}}"
            seq += 1
            data = text.encode("utf-8", "replace")
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
        """Append any other event, with ``next_seq`` as its ``seq``.

        Raises ``ValueError`` for an event that JSON cannot encode, and then appends nothing.
        """
        if self._database:
            event = event.model_copy(update={"db": self._database})
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
        """Note the store's reply for ``batch`` (the journal calls this)."""
        self._settled_seq = batch.first_seq + len(batch.events) - 1
        waiter = self._flushed if self._flushed and not self._flushed.done() else None
        if not taken and not self.fenced:
            self.fenced = True
            if self._pending is not None:
                self.writer.forget(self._pending)
                self._pending = None
            if waiter is None:
                self._on_fenced()
        if self.fenced or (self.phase is lifecycle.Phase.OVER and self._settled_seq == self.seq):
            # Breaks a cycle: else attempt, task and log would wait for the garbage collector.
            self._on_fenced = _nothing
        if waiter is not None:
            if self.fenced:
                waiter.set_exception(Fenced(self.job_id))
            elif self._settled_seq == self.seq:
                waiter.set_result(None)

    def move(self, writer: Writer) -> None:
        """Let another writer send the pending batch; no other batch may be on its way."""
        batch, former = self._pending, self.writer
        assert batch is not None
        former.forget(batch)
        self.writer = writer
        writer.added(self, batch.size, first=True)

    @property
    def waits(self) -> bool:
        """Whether events wait to be taken."""
        return self._pending is not None

    def take(self) -> Batch:
        """Return the pending batch (the journal calls this)."""
        batch, self._pending = self._pending, None
        assert batch is not None  # only a log with pending events is in the journal's queue
        batch.chunks = self.chunks
        return batch

    def _head_of(self, kind: str) -> str:
        head = f'{{"v":1,"job_id":"{self.job_id}","attempt":{self.attempt},"type":"{kind}"'
        return f'{head},"db":{self._database}' if self._database else head

    def _batch(self) -> Batch:
        if self.fenced:
            raise Fenced(self.job_id)
        if self._pending is None:
            self._pending = Batch(self, self.next_seq)
        return self._pending

    def _added(self, batch: Batch, size: int) -> None:
        first = batch.size == 0
        batch.size += size
        self.writer.added(self, size, first=first)


def _fields_of(delta: ReasoningDelta | ToolCallDelta) -> tuple[str, str]:
    """Return the type of the event of a delta and its fields as JSON (empty for an empty delta)."""
    if isinstance(delta, ReasoningDelta):
        return "reasoning", f'"content":{_quote(delta.content)}' if delta.content != "" else ""
    if not isinstance(delta, ToolCallDelta) or type(delta.index) is not int or delta.index < 0:
        raise TypeError("a delta is text, reasoning or a tool call")
    fields = [f'"arguments":{_quote(delta.arguments)}']
    if delta.name is not None:
        fields.insert(0, f'"name":{_quote(delta.name)}')
    if delta.id is not None:
        fields.insert(0, f'"id":{_quote(delta.id)}')
    if len(fields) == 1 and delta.arguments == "":
        return "tool_call", ""
    return "tool_call", ",".join([f'"index":{delta.index}', *fields])


def _nothing() -> None:
    """Stop nothing: the work has ended."""
