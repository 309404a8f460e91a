"""How one reader gets every event of a job once and in order (pure, no I/O).

The rules (schemas/README.md, "Reading without a gap"):

1. The log is the truth; the channel only brings early what the log holds too. An event
   of the channel is delivered if it is the very next one and not terminal. An event that the
   log has already given is skipped. Anything else (a jump, a second event with the same
   ``seq``, a message that is no event) sends the reader to the log.
   Every read of the log begins after :attr:`Replay.confirmed`, so that it also compares what
   the channel brought since the last read. A difference is a :class:`CursorExpired`. Since a
   terminal event is always read from the log, a job whose events were forged or lost never
   looks complete. Until then a forged chunk can be delivered: to ask the log about each event
   before it is delivered costs a reader twice the CPU, and Redis 1.8 times.
2. The caller reads the first page only after its subscription is acknowledged: an event that the
   log lacks at that moment is on its way over the channel.
   All databases of a server share its channels, and another fleet may have a job of the same ID.
   Events that name another database (:attr:`Event.db`) are skipped. Events that name none are of
   database 0, or of a worker of an older version: a reader of another database reads the log.
3. An empty page has four causes: nothing is new, the job has not begun, it is over, or its log has
   expired. A :class:`JobSnapshot` of the record and of the last entry of the log decides. Both are
   untrusted input. A worker mends a record without a known status within a second. If none does,
   no event follows, and the reader raises an error.
4. A terminal event ends it. So does a cursor at or beyond the terminal event.
5. A log that ends before the last event that was read is another log by now: Redis has failed
   over, or came back with an older state. That is an error, because later events do not continue
   the earlier ones. The log may have grown again, so each page begins with the last event that
   was read, and the two are compared.
6. Version 1 only gains fields and types of events, which are skipped if they are not
   known. An event of another version may mean anything: that is an error, and so is a job
   that is over without a terminal event that can be read. No such case ends without an error.

A caller takes the step that :attr:`Replay.need` names, and passes its outcome to
:meth:`Replay.page`, :meth:`Replay.snapshot` or :meth:`Replay.messages`; if nothing came, it calls
:meth:`Replay.missed` or :meth:`Replay.idle`. It delivers the events that these methods return.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.client import entries as log_entries
from berlin_worker.client.entries import E, Entry, Parse, parse_message
from berlin_worker.errors import CursorExpired, UnsupportedVersion

PAGE_SIZE: Final = 500
"""Entries asked for at once; a shorter page was the last one for now."""

_SHRINK: Final = 8
_BEYOND: Final = 10**15
_UNFINISHED: Final = frozenset({"queued", "running"})


class Need(enum.Enum):
    """The next step of a reader."""

    PAGE = "read the page of the log after the cursor"
    SNAPSHOT = "look at the record and at the last entry of the log"
    LISTEN = "wait for the channel"
    NOTHING = "it is over"


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """The record's status and last ``seq``, then the log's last entry; ``None`` if missing.

    In this order: the other way round a job that runs to its end in between would look expired.
    """

    status: str | None
    seq: int
    last: Entry | None


class Replay:
    """One reader of one job; ``after`` is the last ``seq`` that it has already seen."""

    __slots__ = (
        "_after", "_database", "_doubted", "_known", "_last_digest", "_log_digest",
        "_taken_digest", "confirmed", "cursor", "job_id", "need", "page_size",
    )  # fmt: skip

    def __init__(self, job_id: str, after: int = 0, *, database: int = 0) -> None:
        if not 0 <= after < _BEYOND:
            raise ValueError("after is the last seq already seen: 0 or more, at most 15 digits")
        self.job_id = job_id
        self.cursor = self._after = after
        self.confirmed = after
        """The log has been read up to this ``seq``; the channel brought what follows it."""
        self._taken_digest = self._log_digest = 0
        self._last_digest: int | None = None  # of the entry at `confirmed`, if one was read
        self.need = Need.PAGE
        self.page_size = PAGE_SIZE
        self._database = database
        # An event, or a record, that was seen proves that the job existed.
        self._known = after > 0
        self._doubted = False

    def page(self, entries: Sequence[Entry], parse: Parse[Any] = parse_message) -> list[Any]:
        """Take a page of the log that was read by :attr:`next_page`.

        ``parse`` makes the events: ``entries.parse_message`` or ``raw_events.parse_raw``.

        Raises :class:`CursorExpired` if the log no longer holds the event after the cursor, or
        holds other events than the channel brought. Raises :class:`UnsupportedVersion` for an
        event of another version.
        """
        events: list[Any] = []
        before = self.confirmed
        if entries and self._is_as_read(entries[0]):
            entries = entries[1:]
        for entry in entries:
            seq = log_entries.seq_of(entry)
            if seq <= self.confirmed:
                continue
            if seq != self.confirmed + 1:
                raise CursorExpired(
                    f"job {self.job_id}: its log lacks events {self.confirmed + 1} to {seq - 1}"
                )
            if seq <= self.cursor:
                self._confirm(seq, log_entries.data_of(entry))
                continue
            try:
                self._take_entry(events, parse, seq, log_entries.data_of(entry))
            except UnsupportedVersion:
                if events:
                    return events  # first what comes before it
                raise
            if self.need is Need.NOTHING:
                return events
        self._after_page(len(entries), progress=self.confirmed > before)
        return events

    @property
    def next_page(self) -> tuple[int, int]:
        """The ``seq`` after which the next page of the log begins, and its largest size."""
        known = self._last_digest is not None
        return self.confirmed - known, self.page_size + known

    def _is_as_read(self, entry: Entry) -> bool:
        """Return whether an entry is the last one that was read; raises if it is another one."""
        if self._last_digest is None or log_entries.seq_of(entry) != self.confirmed:
            return False
        if hash(log_entries.data_of(entry)) != self._last_digest:
            raise CursorExpired(
                f"job {self.job_id}: its log holds another event {self.confirmed} than was read "
                "(Redis came back with an older state): read it from the start"
            )
        return True

    def _after_page(self, count: int, *, progress: bool) -> None:
        """Decide what follows a page of ``count`` entries without a terminal event."""
        if count == 0:
            self.need = Need.SNAPSHOT
        elif count < self.page_size:
            self.page_size = PAGE_SIZE
            self.need = Need.LISTEN if self.confirmed == self.cursor else Need.SNAPSHOT
        elif not progress:
            # IDs with a second number: the next page would be this one again.
            raise CursorExpired(
                f"job {self.job_id}: after event {self.confirmed} its log holds entries that no "
                "worker has written: submit it again"
            )

    def _take_entry(self, events: list[E], parse: Parse[E], seq: int, data: bytes) -> None:
        event = log_entries.parse_entry(parse, self.job_id, seq, data)
        self.confirmed = self.cursor = seq
        self._last_digest = hash(data)
        self._known = True
        if event is not None:
            self._deliver(events, event)

    def _confirm(self, seq: int, data: bytes) -> None:
        """Compare an entry of the log with the event that the channel brought."""
        self.confirmed = seq
        self._last_digest = hash(data)
        self._log_digest = hash((self._log_digest, data))
        if seq == self.cursor and self._log_digest != self._taken_digest:
            raise CursorExpired(
                f"job {self.job_id}: up to {seq} its log holds other events than were published "
                "(one was forged, or Redis came back with an older state): read it from the start"
            )

    def page_lost(self) -> None:
        """Make pages smaller, since the connection ended while a page was on its way.

        The page may exceed what the server keeps for a subscriber that is behind
        (``client-output-buffer-limit pubsub``, by default 32 MB). It would do so each time.
        """
        self.page_size = max(1, self.page_size // _SHRINK)

    def snapshot(self, seen: JobSnapshot, *, may_wait: bool) -> None:
        """Take the content of the record and the end of the log.

        ``may_wait``: whether a job of which there is no trace may still appear. Raises
        :class:`CursorExpired` if nothing can come any more, :class:`UnsupportedVersion` if
        the end of the job cannot be read.
        """
        if seen.last is None:
            self._judge_without_log(seen, may_wait=may_wait)
            return
        self._known = True
        seq = log_entries.seq_of(seen.last)
        if seq == self.cursor:
            self._is_as_read(seen.last)
        if seq > self.cursor or seq == self.cursor > self.confirmed:
            self.need = Need.PAGE
        elif seq < self.cursor and self.cursor > self._after:
            raise CursorExpired(
                f"job {self.job_id}: its log has lost events {seq + 1} to {self.cursor}, which "
                "were read (Redis came back with an older state): read it again from the start"
            )
        elif log_entries.is_terminal(self.job_id, seen.last):
            self.need = Need.NOTHING
        elif seen.status in TERMINAL_TYPES:
            raise UnsupportedVersion(
                f"job {self.job_id} is over, but its last event cannot be read"
            )
        else:
            self._listen(seen.status, may_wait=may_wait)

    def _judge_without_log(self, seen: JobSnapshot, *, may_wait: bool) -> None:
        status = seen.status
        if status in TERMINAL_TYPES and 0 < seen.seq <= self.cursor:
            self.need = Need.NOTHING
            return
        if self.cursor > 0 or seen.seq > 0 or status in TERMINAL_TYPES:
            raise CursorExpired(f"job {self.job_id}: its log has expired")
        if status is None and self._known:
            raise CursorExpired(f"job {self.job_id}: its record has expired, and it has no log")
        if status is None and not may_wait:
            raise CursorExpired(
                f"job {self.job_id}: there is no record and no log of it; it was never "
                "submitted, waits in a queue that nobody works on, or has expired"
            )
        self._known = status is not None
        self._listen(status, may_wait=may_wait)

    def _listen(self, status: str | None, *, may_wait: bool) -> None:
        """Wait for events, unless the record shows for the second time that no event can follow."""
        doubted, self._doubted = self._doubted, status not in _UNFINISHED
        if doubted and self._doubted and not may_wait:
            record = "has expired" if status is None else "has a status that no worker writes"
            raise CursorExpired(
                f"job {self.job_id}: its record {record}, and its log has no end: submit it again"
            )
        self.need = Need.LISTEN

    def messages(self, batch: Iterable[bytes], parse: Parse[Any] = parse_message) -> list[Any]:
        """Take messages of the channel, in the order of their arrival.

        The first message that does not fit is dropped, and so are all after it: the log holds
        each event that was published before the log is read.
        """
        events: list[Any] = []
        for data in batch:
            if self.need is not Need.LISTEN:
                break
            found = parse(self.job_id, data)
            if found is None:
                self.need = Need.PAGE
                break
            seq, event, database = found
            if database != self._database:
                if database:
                    continue
                # An event without a database: the log decides whether it is of this job.
                self.need = Need.PAGE
                break
            if seq <= self.confirmed:
                continue
            # Each event is published once: a second one with the same seq means that one of
            # the two is not in the log. The end of a job is taken from the log alone.
            if seq != self.cursor + 1 or (event is not None and event.type in TERMINAL_TYPES):
                self.need = Need.PAGE
                break
            self.cursor = seq
            self._known = True
            self._taken_digest = hash((self._taken_digest, data))
            if event is not None:
                self._deliver(events, event)
        return events

    def missed(self) -> None:
        """Read the log next: a broken connection or a full buffer may have lost messages."""
        if self.need is not Need.NOTHING:
            self.need = Need.PAGE

    def idle(self) -> None:
        """Take a snapshot next: after a silence, a message may be lost or the log expired."""
        if self.need is Need.LISTEN:
            self.need = Need.SNAPSHOT

    def _deliver(self, events: list[E], event: E) -> None:
        events.append(event)
        if event.type in TERMINAL_TYPES:
            self.need = Need.NOTHING
