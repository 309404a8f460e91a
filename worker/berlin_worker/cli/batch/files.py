"""The files of a batch: results that survive an interruption, and a note of what was sent.

Results are in the order of the lines. If one in their midst is wanted anew, it and those after it
are moved to ``<results>.kept`` first, and from there back to their places one by one: a batch
killed at any moment has each result in one of the two files.

The note stands beside the results, as ``<results>.run``. It is one record of a fixed size that
is written in place before each job is sent, so that a batch killed at any moment knows afterwards
which lines may have been paid for.
"""

import contextlib
import fcntl
import json
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, Self

from berlin_worker.cli.batch.preflight import KnownResults, WrongOutput

_RECORD_BYTES: Final = 160


@dataclass(frozen=True, slots=True)
class Note:
    """``sent``: the highest line that may have been sent; ``since``: when the oldest one of
    those without a result was sent, in Unix seconds."""

    run: str
    sent: int = 0
    since: float = 0.0


class BatchOutput(Protocol):
    """Where the results of a batch go."""

    note: Note

    def load(self) -> KnownResults:
        """The results that are there."""

    def set_aside(self, known: KnownResults, in_place: int) -> KnownResults:
        """Leave the first results in their place, and the others where they are kept."""

    def kept(self, place: int) -> dict[str, Any]:
        """A result that was set aside."""

    def add(self, result: dict[str, Any]) -> None:
        """Write one result, and hand it to the system at once."""

    def about_to_send(self, number: int, since: float) -> None:
        """Note that a line is sent next."""

    def finish(self, *, unused: int) -> None:
        """Note that all is done; remove what was set aside if none of it is ``unused``."""


class StdoutResults:
    """Results on stdout: there are none of an earlier run, and nothing is kept for a later one."""

    def __init__(self) -> None:
        self.note = Note(secrets.token_hex(16))

    def load(self) -> KnownResults:
        """Return none."""
        return KnownResults()

    def set_aside(self, known: KnownResults, in_place: int) -> KnownResults:
        """Never called: no result is known."""
        raise NotImplementedError

    def kept(self, place: int) -> dict[str, Any]:
        """Never called: no result is known."""
        raise NotImplementedError

    def add(self, result: dict[str, Any]) -> None:
        """Write one result; raises ``BrokenPipeError`` if the reader has gone."""
        sys.stdout.buffer.write(_encode(result))
        sys.stdout.buffer.flush()

    def about_to_send(self, number: int, since: float) -> None:
        """Note nothing."""

    def finish(self, *, unused: int) -> None:
        """Do nothing."""


class BatchFiles:
    """Results and note of one batch, locked against a second one. Use it as a context."""

    def __init__(self, results: Path) -> None:
        """Open or create both. Raises :class:`WrongOutput` for a file that is none of ours."""
        self.path = results
        self.note_path = results.with_name(results.name + ".run")
        self.kept_path = results.with_name(results.name + ".kept")
        fresh = not results.exists() or results.stat().st_size == 0
        if not fresh and not self.note_path.exists():
            raise WrongOutput(f"there is no {self.note_path.name} beside it, so it is no batch's")
        # Results that somebody has removed are wanted anew: then the old note counts no more.
        started_over = not results.exists()
        self._kept: BinaryIO | None = None
        self._note_fd = os.open(self.note_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._note_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.note = self._read_note(started_over=started_over)
            if started_over:
                self.kept_path.unlink(missing_ok=True)
            self._results: BinaryIO = results.open("ab")
        except BlockingIOError:
            os.close(self._note_fd)
            raise WrongOutput("another batch is writing it") from None
        except BaseException:
            os.close(self._note_fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._results.close()
        if self._kept is not None:
            self._kept.close()
        os.close(self._note_fd)

    def results(self) -> Iterator[bytes]:
        """The results that are there; a last one that is torn is cut off."""
        whole = 0
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    os.truncate(self.path, whole)
                    return
                whole += len(line)
                yield line

    def load(self) -> KnownResults:
        """Read the results that are there; one that was set aside has a place below 0."""
        known = KnownResults()
        for place, line in self._kept_lines():
            known.add(place, line, in_order=False)
        for place, line in enumerate(self.results()):
            known.add(place, line, in_order=True)
        return known

    def set_aside(self, known: KnownResults, in_place: int) -> KnownResults:
        """Leave the first ``in_place`` results, move the others to where they are kept."""
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
        """Read a result that was set aside."""
        if self._kept is None:
            self._kept = self.kept_path.open("rb")
        self._kept.seek(-place - 1)
        result: dict[str, Any] = json.loads(self._kept.readline())
        return result

    def add(self, result: dict[str, Any]) -> None:
        """Write one result, and hand it to the system at once."""
        self._results.write(_encode(result))
        self._results.flush()

    def about_to_send(self, number: int, since: float) -> None:
        """Note that a line is sent next."""
        self._write_note(Note(self.note.run, max(number, self.note.sent), since))

    def finish(self, *, unused: int) -> None:
        """Note that no line is under way; remove what was set aside if none is ``unused``."""
        self._write_note(Note(self.note.run))
        if not unused:
            self.kept_path.unlink(missing_ok=True)

    def _kept_lines(self) -> Iterator[tuple[int, bytes]]:
        with contextlib.suppress(FileNotFoundError), self.kept_path.open("rb") as lines:
            offset = 0
            for line in lines:
                yield -offset - 1, line
                offset += len(line)

    def _read_note(self, *, started_over: bool) -> Note:
        data = os.pread(self._note_fd, _RECORD_BYTES, 0)
        if data and not started_over:
            with contextlib.suppress(ValueError, TypeError):
                return Note(**json.loads(data))
            raise WrongOutput(f"{self.note_path.name} cannot be read")
        self._write_note(Note(secrets.token_hex(16)))
        return self.note

    def _write_note(self, note: Note) -> None:
        self.note = note
        told = json.dumps({"run": note.run, "sent": note.sent, "since": note.since})
        os.pwrite(self._note_fd, told.ljust(_RECORD_BYTES - 1).encode() + b"\n", 0)


def _encode(result: dict[str, Any]) -> bytes:
    return json.dumps(result, ensure_ascii=False).encode(errors="replace") + b"\n"
