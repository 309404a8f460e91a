"""What is shown of each event: bytes for stdout, a notice for stderr (pure)."""

import json
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from berlin_schemas import Cancelled, Chunk, Completed, Event, Failed, Reset, Started, encode
from berlin_worker.cli.output import encoded, printable

_NUMBERS_OF_PYTHON: Final = (b"NaN", b"Infinity")


@dataclass(frozen=True, slots=True)
class Shown:
    """``out`` goes to stdout as it is, ``notice`` to stderr after it."""

    out: bytes = b""
    notice: str | None = None


class View(Protocol):
    """A way to show a job; it may remember what it has shown."""

    def show(self, event: Event, written: bytes | None = None) -> Shown:
        """What ``event`` adds; ``written`` is how it stands in the log, where that is known."""

    def end(self) -> Shown:
        """What ends the output, when no more events are shown."""


class TextView:
    """The text as it comes. On a terminal no control character of the model gets through."""

    def __init__(self, *, is_terminal: bool, encoding: str = "utf-8") -> None:
        self._is_terminal = is_terminal
        self._encoding = encoding
        self._open_line = False

    def show(self, event: Event, written: bytes | None = None) -> Shown:  # noqa: ARG002  # text alone
        """A chunk is its text; text before a reset cannot be unwritten, so a new line begins."""
        match event:
            case Chunk():
                text = printable(event.content) if self._is_terminal else event.content
                if text:
                    self._open_line = not text.endswith("\n")
                return Shown(encoded(text, self._encoding))
            case Reset():
                return Shown(self._new_line(), notice(event))
            case _:
                return Shown(self.end().out, notice(event))

    def end(self) -> Shown:
        """End the last line, on a terminal and in a pipe, if the text does not."""
        return Shown(self._new_line())

    def _new_line(self) -> bytes:
        new_line, self._open_line = b"\n" * self._open_line, False
        return new_line


class FinalView(TextView):
    """The text once it is complete: what a reset makes void is never shown."""

    def __init__(self, *, is_terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__(is_terminal=is_terminal, encoding=encoding)
        self._chunks: list[Event] = []

    def show(self, event: Event, written: bytes | None = None) -> Shown:  # noqa: ARG002  # text alone
        """Nothing before the job is completed."""
        match event:
            case Chunk():
                self._chunks.append(event)
                return Shown()
            case Reset():
                self._chunks.clear()
                return Shown(notice=notice(event))
            case Completed():
                text = b"".join(super(FinalView, self).show(chunk).out for chunk in self._chunks)
                return Shown(text + self.end().out, notice(event))
            case _:
                return Shown(notice=notice(event))


class JsonView:
    """Every event as it stands in the log, one a line."""

    def show(self, event: Event, written: bytes | None = None) -> Shown:
        """The event, and a notice where it is a failure."""
        line = written if written and _is_json(written) else encode(event)
        return Shown(line + b"\n", notice(event) if isinstance(event, Failed) else None)

    def end(self) -> Shown:
        """Nothing: the lines are complete."""
        return Shown()


def _is_json(line: bytes) -> bool:
    """Return whether a line of a log is JSON for every parser: without NaN and Infinity (pure)."""
    if not any(word in line for word in _NUMBERS_OF_PYTHON):
        return True
    try:
        json.loads(line, parse_constant=_refuse)
    except ValueError:
        return False
    return True


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)


def notice(event: Event) -> str | None:
    """What is said of an event besides its text; ``None`` where there is nothing to say."""
    match event:
        case Started(attempt=attempt) if attempt > 1:
            return f"attempt {attempt}"
        case Reset():
            return f"restarted ({event.reason}): earlier text is void"
        case Completed(finish_reason="length"):
            return "cut: the model has reached its token limit"
        case Completed(finish_reason="interrupted"):
            return "cut: the stream was interrupted, and the job keeps what had come"
        case Failed(error=error):
            again = "; the same job may succeed later" if error.retryable else ""
            return f"berlin: the job has failed: {error.code}: {error.message}{again}"
        case Cancelled():
            return f"the job was cancelled ({event.reason})"
        case _:
            return None


def exit_code(event: Event | None) -> int:
    """0 for a completed job, 1 for every other end."""
    return 0 if isinstance(event, Completed) else 1
