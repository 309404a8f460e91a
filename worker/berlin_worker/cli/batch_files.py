"""The files of a batch: results that survive an interruption, and a note of what was sent.

The note stands beside the results, as ``<results>.run``. It is one record of a fixed size that
is written in place before each job is sent, so that a batch killed at any moment knows afterwards
which lines may have been paid for.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from berlin_worker.cli.batch_lines import WrongOutput

_RECORD_BYTES: Final = 160


@dataclass(frozen=True, slots=True)
class Note:
    """``sent``: the highest line that may have been sent; ``since``: when the oldest one of
    those without a result was sent, in Unix seconds."""

    run: str
    sent: int = 0
    since: float = 0.0


class BatchFiles:
    """Results and note of one batch, locked against a second one. Use it as a context."""

    def __init__(self, results: Path) -> None:
        """Open or create both. Raises :class:`WrongOutput` for a file that is none of ours."""
        self.path = results
        self.note_path = results.with_name(results.name + ".run")
        fresh = not results.exists() or results.stat().st_size == 0
        if not fresh and not self.note_path.exists():
            raise WrongOutput(f"there is no {self.note_path.name} beside it, so it is no batch's")
        # Results that somebody has removed are wanted anew: then the old note counts no more.
        started_over = not results.exists()
        self._note_fd = os.open(self.note_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._note_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.note = self._read_note(started_over=started_over)
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

    def add(self, result: dict[str, Any]) -> None:
        """Write one result, and hand it to the system at once."""
        self._results.write(json.dumps(result, ensure_ascii=False).encode(errors="replace") + b"\n")
        self._results.flush()

    def about_to_send(self, number: int, since: float) -> None:
        """Note that a line is sent next."""
        self._write_note(Note(self.note.run, max(number, self.note.sent), since))

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
