"""The files of a batch: results that survive an interruption, and a record of its progress.

Results are in the order of the lines. To run a line before the last again, the batch first moves
its result and all later ones to ``<results>.kept``, and then each back to its place. Whenever the
process is killed, each result is in one of the two files.

The progress is in ``<results>.run``: one record of a fixed size, written in place before each job
is sent. After a kill it bounds the lines that may have been paid for.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, Self

from berlin_schemas.events import finite
from berlin_worker.cli.batch.preflight import KnownResults, WrongOutput
from berlin_worker.cli.stdout import Stdout

_RECORD_BYTES: Final = 160
_RUN: Final = re.compile("[0-9a-f]{1,64}")
_BEYOND: Final = 10**13
"""Numbers of lines and times are below this."""
_PAGER_PATIENCE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch has come.

    ``sent`` is the highest line that may have been sent. ``since`` is the time (Unix seconds) when
    the oldest line without a result was sent. Job IDs derive from ``run``.
    """

    run: str
    sent: int = 0
    since: float = 0.0


class BatchOutput(Protocol):
    """The destination of the results of a batch."""

    progress: Progress

    def load(self) -> KnownResults:
        """Read the results of earlier runs."""

    def set_aside(self, known: KnownResults, in_place: int) -> KnownResults:
        """Leave the first ``in_place`` results in their places, and set the others aside."""

    def kept(self, place: int) -> dict[str, Any]:
        """Return a result that was set aside."""

    async def add(self, result: dict[str, Any]) -> None:
        """Append one result and flush it to the operating system."""

    def about_to_send(self, number: int, since: float) -> None:
        """Record that a line is sent next. ``since`` is as in :class:`Progress`."""

    def finish(self, *, unused: int) -> None:
        """Record that the batch is complete. Delete the kept results if none is ``unused``."""


class StdoutResults:
    """Results on stdout: no earlier results exist, and a later run cannot resume."""

    def __init__(self) -> None:
        self.progress = Progress(secrets.token_hex(16))
        self._out: Stdout | None = None  # belongs to the event loop that writes the results

    def load(self) -> KnownResults:
        """Return no results."""
        return KnownResults()

    def set_aside(self, known: KnownResults, in_place: int) -> KnownResults:
        """Refuse: without earlier results the caller never sets any aside."""
        raise NotImplementedError

    def kept(self, place: int) -> dict[str, Any]:
        """Refuse: without earlier results the caller never sets any aside."""
        raise NotImplementedError

    async def add(self, result: dict[str, Any]) -> None:
        """Write one result. Raises ``BrokenPipeError`` if the reader has closed the pipe.

        If it is cancelled, a reader that still reads gets the line to its end.
        """
        self._out = self._out or Stdout()
        writing = asyncio.ensure_future(self._out.write(_encode(result)))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):  # TimeoutError is one
                await asyncio.wait_for(writing, _PAGER_PATIENCE_S)
            raise

    def about_to_send(self, number: int, since: float) -> None:
        """Do nothing: stdout keeps no progress."""

    def finish(self, *, unused: int) -> None:
        """Do nothing: stdout keeps no progress."""


class BatchFiles:
    """Results and progress of one batch, locked against a second process: a context manager."""

    def __init__(self, results: Path) -> None:
        """Open or create both files. Raises :class:`WrongOutput` for a file of another program."""
        if not results.name:  # the path is empty: click takes no directory
            raise WrongOutput("it names no file")
        self.path = results
        self.progress_path = results.with_name(results.name + ".run")
        self.kept_path = results.with_name(results.name + ".kept")
        if not results.parent.is_dir():
            raise WrongOutput(f"the directory {results.parent} does not exist")
        if results.exists() and not results.is_file():
            raise WrongOutput("it is not a regular file, and only - is stdout")
        fresh = not results.exists() or results.stat().st_size == 0
        if not fresh and not self.progress_path.exists():
            raise WrongOutput(f"{self.progress_path.name} is missing, so no batch wrote it")
        # If the user has removed the results, all lines run again, and the old progress is void.
        started_over = not results.exists()
        self._kept: BinaryIO | None = None
        self._progress_fd = os.open(self.progress_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._progress_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.progress = self._read_progress(started_over=started_over)
            if started_over:
                self.kept_path.unlink(missing_ok=True)
            self._results: BinaryIO = results.open("ab")
        except BlockingIOError:
            os.close(self._progress_fd)
            raise WrongOutput("another batch is writing to it") from None
        except BaseException:
            os.close(self._progress_fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._results.close()
        if self._kept is not None:
            self._kept.close()
        os.close(self._progress_fd)

    def results(self) -> Iterator[bytes]:
        """Yield the results in order. Truncate the file before an incomplete last line."""
        whole = 0
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    os.truncate(self.path, whole)
                    return
                whole += len(line)
                yield line

    def load(self) -> KnownResults:
        """Read all results. A result that was set aside has a negative place."""
        known = KnownResults()
        for place, line in self._kept_lines():
            known.add(place, line, in_order=False)
        for place, line in enumerate(self.results()):
            known.add(place, line, in_order=True)
        return known

    def set_aside(self, known: KnownResults, in_place: int) -> KnownResults:
        """Leave the first ``in_place`` results in the output; move the others to the kept file."""
        new = self.kept_path.with_name(self.kept_path.name + ".new")
        places, whole = known.places, 0
        with new.open("wb") as out:
            out.writelines(line for place, line in self._kept_lines() if place in places)
            for place, line in enumerate(self.results()):
                if place < in_place:
                    whole += len(line)
                elif place in places:
                    out.write(line)
            out.flush()
            os.fsync(out.fileno())
        new.replace(self.kept_path)
        os.truncate(self.path, whole)
        return self.load()

    def kept(self, place: int) -> dict[str, Any]:
        """Read a result of the kept file. ``place`` is -1 minus its offset there, in bytes."""
        if self._kept is None:
            self._kept = self.kept_path.open("rb")
        self._kept.seek(-place - 1)
        result: dict[str, Any] = json.loads(self._kept.readline())
        return result

    async def add(self, result: dict[str, Any]) -> None:
        """Append one result and flush it to the operating system."""
        self._results.write(_encode(result))
        self._results.flush()

    def about_to_send(self, number: int, since: float) -> None:
        """Record that a line is sent next. ``since`` is as in :class:`Progress`."""
        self._write_progress(Progress(self.progress.run, max(number, self.progress.sent), since))

    def finish(self, *, unused: int) -> None:
        """Record that no line is under way. Delete the kept results if none is ``unused``."""
        self._write_progress(Progress(self.progress.run))
        if not unused:
            self.kept_path.unlink(missing_ok=True)

    def _kept_lines(self) -> Iterator[tuple[int, bytes]]:
        with contextlib.suppress(FileNotFoundError), self.kept_path.open("rb") as lines:
            offset = 0
            for line in lines:
                yield -offset - 1, line
                offset += len(line)

    def _read_progress(self, *, started_over: bool) -> Progress:
        data = os.pread(self._progress_fd, _RECORD_BYTES, 0)
        if data and not started_over:
            if (progress := _progress(data)) is not None:
                return progress
            raise WrongOutput(f"{self.progress_path.name} cannot be read")
        self._write_progress(Progress(secrets.token_hex(16)))
        return self.progress

    def _write_progress(self, progress: Progress) -> None:
        self.progress = progress
        record = json.dumps({"run": progress.run, "sent": progress.sent, "since": progress.since})
        os.pwrite(self._progress_fd, record.ljust(_RECORD_BYTES - 1).encode() + b"\n", 0)


def _progress(data: bytes) -> Progress | None:
    """Return the progress in ``data``; ``None`` if no batch wrote it, or it fits no record."""
    try:
        found = json.loads(data)
        run, sent, since = found["run"], found.get("sent", 0), found.get("since", 0.0)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    whole = type(sent) is int and type(since) in {int, float}
    if not whole or not (0 <= sent < _BEYOND and 0 <= since < _BEYOND):
        return None
    return Progress(run, sent, since) if isinstance(run, str) and _RUN.fullmatch(run) else None


def _encode(result: dict[str, Any]) -> bytes:
    text = json.dumps(finite(result), ensure_ascii=False)  # an older release has kept NaN
    return text.encode(errors="replace") + b"\n"
