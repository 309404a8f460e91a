"""How events are shown: bytes for stdout, a notice for stderr (pure)."""

import json
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from berlin_schemas import Cancelled, Chunk, Completed, Event, Failed, Reset, Started, encode
from berlin_worker.cli.output import encoded, printable

_NUMBERS_OF_PYTHON: Final = (b"NaN", b"Infinity")


@dataclass(frozen=True, slots=True)
class Rendered:
    """``out`` goes to stdout unchanged, then ``notice`` to stderr."""

    out: bytes = b""
    notice: str | None = None


class View(Protocol):
    """A format for the events of one job. It may keep state between events."""

    def render(self, event: Event, written: bytes | None = None) -> Rendered:
        """Return the output for ``event``; ``written`` is its line in the log, if known."""

    def end(self) -> Rendered:
        """Return the output after the last event."""


class TextView:
    """The text as it comes, without control characters on a terminal."""

    def __init__(self, *, is_terminal: bool, encoding: str = "utf-8") -> None:
        self._is_terminal = is_terminal
        self._encoding = encoding
        self._open_line = False

    def render(self, event: Event, written: bytes | None = None) -> Rendered:  # noqa: ARG002  # only JsonView uses it
        """Return the text of a chunk; a reset starts a new line."""
        match event:
            case Chunk():
                text = printable(event.content) if self._is_terminal else event.content
                if text:
                    self._open_line = not text.endswith("\n")
                return Rendered(encoded(text, self._encoding))
            case Reset():
                return Rendered(self._new_line(), notice(event))
            case _:
                return Rendered(self.end().out, notice(event))

    def end(self) -> Rendered:
        """End the last line, if the text does not end with a newline."""
        return Rendered(self._new_line())

    def _new_line(self) -> bytes:
        new_line, self._open_line = b"\n" * self._open_line, False
        return new_line


class FinalView(TextView):
    """The text once it is complete, without text that a reset has made void."""

    def __init__(self, *, is_terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__(is_terminal=is_terminal, encoding=encoding)
        self._chunks: list[Event] = []

    def render(self, event: Event, written: bytes | None = None) -> Rendered:  # noqa: ARG002  # only JsonView uses it
        """Return no text before the job is completed, then all of it."""
        match event:
            case Chunk():
                self._chunks.append(event)
                return Rendered()
            case Reset():
                self._chunks.clear()
                return Rendered(notice=notice(event))
            case Completed():
                text = b"".join(super(FinalView, self).render(chunk).out for chunk in self._chunks)
                return Rendered(text + self.end().out, notice(event))
            case _:
                return Rendered(notice=notice(event))


class JsonView:
    """Each event as a JSON line, in the bytes of the log."""

    def render(self, event: Event, written: bytes | None = None) -> Rendered:
        """Return the event, and a notice for a failure."""
        line = written if written and _is_json(written) else encode(event)
        return Rendered(line + b"\n", notice(event) if isinstance(event, Failed) else None)

    def end(self) -> Rendered:
        """Return nothing: each line is complete."""
        return Rendered()


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
    """Return the notice for an event, or ``None`` if it needs none."""
    match event:
        case Started(attempt=attempt) if attempt > 1:
            return f"attempt {attempt}"
        case Reset():
            return f"restarted ({event.reason}): earlier text is void"
        case Completed(finish_reason="length"):
            return "cut: the model has reached its token limit"
        case Completed(finish_reason="interrupted"):
            return "cut: the stream was interrupted, and the job keeps the text so far"
        case Failed(error=error):
            again = "; the same job may succeed later" if error.retryable else ""
            return f"berlin: the job has failed: {error.code}: {error.message}{again}"
        case Cancelled():
            return f"the job was cancelled ({event.reason})"
        case _:
            return None


def exit_code(event: Event | None) -> int:
    """Return 0 for a completed job, 1 for any other end."""
    return 0 if isinstance(event, Completed) else 1
