"""How events are shown: bytes for stdout, a notice for stderr (pure)."""

import json
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from berlin_schemas import (
    Cancelled,
    Chunk,
    Completed,
    Event,
    Failed,
    Reasoning,
    Reset,
    Started,
    ToolCall,
    decode,
    encode,
)
from berlin_worker.cli.output import encoded, printable
from berlin_worker.client.answer import Answer

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
    """The text as it comes, without control characters on a terminal.

    A tool call is a line ``name(arguments)``, once it is complete. Reasoning is left out if
    ``dim_reasoning`` is ``None``, else shown before the text, dim or not.
    """

    def __init__(
        self, *, is_terminal: bool, encoding: str = "utf-8", dim_reasoning: bool | None = None
    ) -> None:
        self._is_terminal = is_terminal
        self._encoding = encoding
        self._dim_reasoning = dim_reasoning
        self._open_line = False
        self._in_reasoning = False
        self._answer = Answer()
        self._printed: set[int] = set()

    def render(self, event: Event, written: bytes | None = None) -> Rendered:  # noqa: ARG002  # only JsonView uses it
        """Return the text of a chunk; a reset starts a new line."""
        match event:
            case Chunk():
                between = self._new_line() if self._in_reasoning else b""
                self._in_reasoning = False
                return Rendered(between + self._text(event.content))
            case Reasoning():
                return Rendered(self._reasoning(event.content))
            case ToolCall():
                calls = self._calls(but=event.index)
                self._answer.add(event)
                return Rendered(calls)
            case Reset():
                self._answer.add(event)
                self._printed.clear()
                self._in_reasoning = False
                return Rendered(self._new_line(), notice(event))
            case Completed():
                return Rendered(self._calls() + self.end().out, notice(event))
            case _:
                return Rendered(self.end().out, notice(event))

    def _text(self, text: str) -> bytes:
        text = printable(text) if self._is_terminal else text
        if text:
            self._open_line = not text.endswith("\n")
        return encoded(text, self._encoding)

    def _reasoning(self, text: str) -> bytes:
        if self._dim_reasoning is None:
            return b""
        between = b"" if self._in_reasoning else self._new_line()
        self._in_reasoning = True
        shown = self._text(text)
        return between + (b"\x1b[2m" + shown + b"\x1b[0m" if self._dim_reasoning else shown)

    def _calls(self, but: int | None = None) -> bytes:
        """Return the lines of the calls that are complete and were not printed.

        The call ``but`` is left out, since more of it may come. At the end all calls are printed,
        even one that was cut.
        """
        lines = b""
        for index, call in self._answer.tool_calls.items():
            if index not in self._printed and index != but and (but is None or call.is_complete):
                self._printed.add(index)
                line = f"{call.name}({call.arguments})".replace("\n", " ")
                lines += self._new_line() + self._text(line) + b"\n"
                self._open_line = False
        return lines

    def end(self) -> Rendered:
        """End the last line, if the text does not end with a newline."""
        return Rendered(self._new_line())

    def _new_line(self) -> bytes:
        new_line, self._open_line = b"\n" * self._open_line, False
        return new_line


class FinalView(TextView):
    """The text once it is complete, without text that a reset has made void."""

    def __init__(
        self, *, is_terminal: bool, encoding: str = "utf-8", dim_reasoning: bool | None = None
    ) -> None:
        super().__init__(is_terminal=is_terminal, encoding=encoding, dim_reasoning=dim_reasoning)
        self._deltas: list[Event] = []

    def render(self, event: Event, written: bytes | None = None) -> Rendered:  # noqa: ARG002  # only JsonView uses it
        """Return no text before the job is completed, then all of it."""
        match event:
            case Chunk() | Reasoning() | ToolCall():
                self._deltas.append(event)
                return Rendered()
            case Reset():
                self._deltas.clear()
                return Rendered(notice=notice(event))
            case Completed():
                render = super().render
                text = b"".join(render(delta).out for delta in self._deltas)
                return Rendered(text + render(event).out, notice(event))
            case _:
                return Rendered(notice=notice(event))


class JsonView:
    """Each event as a JSON line, in the bytes of the log."""

    def render(self, event: Event, written: bytes | None = None) -> Rendered:
        """Return the event, and a notice for a failure."""
        line = written if written and _is_line_of(event, written) else encode(event)
        return Rendered(line + b"\n", notice(event) if isinstance(event, Failed) else None)

    def end(self) -> Rendered:
        """Return nothing: each line is complete."""
        return Rendered()


def _is_line_of(event: Event, written: bytes) -> bool:
    """Return whether ``written`` is this event in one line that every JSON parser reads (pure)."""
    if b"\n" in written or b"\r" in written:
        return False
    try:
        is_same = decode(written) == event
        if any(word in written for word in _NUMBERS_OF_PYTHON):
            json.loads(written, parse_constant=_refuse)
    except ValueError:
        return False
    return is_same


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
        case Completed(finish_reason="content_filter"):
            return "cut: the upstream has filtered the answer"
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
