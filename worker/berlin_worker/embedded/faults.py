"""Table of the faults of the stand-in upstream (pure).

A fault is written ``name`` or ``name:argument:argument``, for instance ``cut:3`` or
``status:503:2``. A prompt carries faults in double square brackets, so that one
upstream can serve many tests at once: ``[[cut:3]]`` at each call with this prompt,
``[[cut:3*2]]`` at the first two of them only. The names are those of :data:`FAULTS`.
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Plan:
    """The reply to one call."""

    chunks: tuple[str, ...] = ()
    raw: bytes | None = None
    """Body to send unchanged, in place of chunks."""
    delay_s: float = 0.0
    """Seconds before each chunk, or before the reply to a login."""
    status: int = 200
    retry_after: str | None = None
    expire: bool = False
    """All tokens expire before the call, its own included."""
    leak: bool = False
    """The error body repeats the token and the credentials."""
    end: Literal[
        "end", "cut", "half", "unfinished", "stall", "garbage", "endless", "bare", "error"
    ] = "end"
    """The action of the server after the chunks."""
    drip_s: float | None = None
    """Seconds between single bytes."""
    gzip: bool = False
    bomb_bytes: int = 0
    silent: Literal["", "drop", "mute"] = ""
    """No reply: the connection closes, or stays open and silent."""
    body: str = ""
    """The name of a known error body, in place of the default one with the text "as ordered"."""
    reasoning: int = 0
    """Deltas of reasoning before the chunks."""
    tool_calls: int = 0
    """Tool calls after the chunks."""
    finish_reason: str = ""
    usage: Literal["asked", "inside", "never", "refused"] = "asked"
    """Usage in a chunk of its own if the client asks; in the last one; never; or a 400."""
    is_marked: bool = True
    """The reply ends with ``[DONE]``."""
    comments: bool = False
    """A comment before each event."""
    error_status: int = 500
    """The status that an error inside of the stream names."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of :data:`FAULTS` with its arguments; ``times=None``: at every call."""

    name: str
    arguments: tuple[float, ...] = ()
    times: int | None = None

    def apply(self, plan: Plan) -> Plan:
        """Return ``plan`` with this fault."""
        return FAULTS[self.name](plan, *self.arguments)

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{argument:g}" for argument in self.arguments)])


def _status(plan: Plan, status: float, retry_after_s: float | None = None) -> Plan:
    wait = None if retry_after_s is None else f"{retry_after_s:g}"
    return replace(plan, status=int(status), retry_after=wait)


def _expire(plan: Plan) -> Plan:
    return replace(plan, expire=True, status=401)


def _leak(plan: Plan, status: float) -> Plan:
    return replace(plan, leak=True, status=int(status))


def _error_body(plan: Plan) -> Plan:
    return replace(plan, raw=b'{"code": 500, "message": "the model is busy"}\n')


def _chunks(plan: Plan, count: float) -> Plan:
    words = [word if word[-1:].isspace() else f"{word} " for word in plan.chunks or ("word",)]
    return replace(plan, chunks=tuple(itertools.islice(itertools.cycle(words), int(count))))


def _body(name: str, status: int) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, status=status, body=name)


def _stream_error(plan: Plan, after: float, status: float = 500) -> Plan:
    chunks = plan.chunks[: int(after)]
    return replace(plan, chunks=chunks, end="error", error_status=int(status))


FAULTS: Final[dict[str, Callable[..., Plan]]] = {
    # status:503, status:429:2 (with Retry-After, seconds); a 3xx redirects to nowhere
    "status": _status,
    # 401; from then on every issued token is invalid
    "expire": _expire,
    # leak:500: the error body repeats token, account and password
    "leak": _leak,
    # status 200 with an error object in place of a reply
    "error_body": _error_body,
    # the connection closes before any reply
    "drop": lambda plan: replace(plan, silent="drop"),
    # the server accepts the call and never replies
    "mute": lambda plan: replace(plan, silent="mute"),
    # cut:3: the connection closes after three chunks, in the middle of the body
    "cut": lambda plan, after: replace(plan, chunks=plan.chunks[: int(after)], end="cut"),
    # half:3: after three chunks half a line, and the body ends by the rules of HTTP
    "half": lambda plan, after: replace(plan, chunks=plan.chunks[: int(after)], end="half"),
    # unfinished:3: compressed, and after three chunks the body ends without the trailer of gzip
    "unfinished": lambda plan, after: replace(
        plan, chunks=plan.chunks[: int(after)], gzip=True, end="unfinished"
    ),
    # stall:3: silence after three chunks, until the client leaves
    "stall": lambda plan, after: replace(plan, chunks=plan.chunks[: int(after)], end="stall"),
    # garbage:3: three chunks, then a line that is not JSON; nothing follows
    "garbage": lambda plan, after: replace(plan, chunks=plan.chunks[: int(after)], end="garbage"),
    # the reply repeats until the client disconnects
    "endless": lambda plan: replace(plan, end="endless"),
    # drip:0.01: single bytes, 10 ms apart
    "drip": lambda plan, delay_s: replace(plan, drip_s=delay_s),
    # a compressed reply, flushed after each chunk
    "gzip": lambda plan: replace(plan, gzip=True),
    # bomb:100: one line of 100 MB, compressed to next to nothing
    "bomb": lambda plan, size_mb: replace(plan, bomb_bytes=int(size_mb * 1_000_000)),
    # Not faults, but the shape of a reply. chunks:200: as many chunks, the words repeated
    "chunks": _chunks,
    # delay:0.01: seconds before each chunk, or before the reply to a login
    "delay": lambda plan, delay_s: replace(plan, delay_s=delay_s),
    # What follows is for the OpenAI protocol alone. reasoning:3: as many deltas before the text
    "reasoning": lambda plan, count: replace(plan, reasoning=int(count)),
    # tool_calls:2: as many calls after the text, in pieces
    "tool_calls": lambda plan, count: replace(
        plan, tool_calls=int(count), finish_reason="tool_calls"
    ),
    # the answer ends at its limit of tokens
    "length": lambda plan: replace(plan, finish_reason="length"),
    # usage in the chunk with the finish reason, never, or a 400 for a client that asks
    "usage_inside": lambda plan: replace(plan, usage="inside"),
    "no_usage": lambda plan: replace(plan, usage="never"),
    "refuse_usage": lambda plan: replace(plan, usage="refused"),
    # no [DONE] at the end
    "no_done": lambda plan: replace(plan, is_marked=False),
    # bare:3: after three chunks the body ends by the rules of HTTP, without reason and [DONE]
    "bare": lambda plan, after: replace(plan, chunks=plan.chunks[: int(after)], end="bare"),
    # stream_error:3, stream_error:3:429: after three chunks an error object
    "stream_error": _stream_error,
    # a comment before each event
    "comments": lambda plan: replace(plan, comments=True),
    # status 200 with a page
    "html": lambda plan: replace(plan, raw=b"<!DOCTYPE html><h1>Sign in</h1>"),
    # errors with the body of the true service: the quota is used up; the prompt is too long
    "quota": _body("quota", 429),
    "context": _body("context", 400),
}

_DIRECTIVE: Final = re.compile(r"\[\[([a-z_]+(?::[0-9.]+)*(?:\*[0-9]+)?)\]\]")


def parse(text: str, times: int | None = None) -> Fault:
    """Parse one fault; raises ``ValueError`` for an unknown name or a wrong argument."""
    spec, star, count = text.partition("*")
    name, *arguments = spec.split(":")
    fault = Fault(name, tuple(map(float, arguments)), int(count) if star else times)
    try:
        fault.apply(Plan())
    except (KeyError, TypeError):
        known = ", ".join(FAULTS)
        raise ValueError(f"no such fault, or wrong arguments: {text!r}; known: {known}") from None
    return fault


def in_prompt(prompt: str) -> list[Fault]:
    """Return the faults in a prompt, in order; raises ``ValueError`` as :func:`parse` does."""
    return [parse(found) for found in _DIRECTIVE.findall(prompt)]


def without_faults(prompt: str) -> str:
    """Return the prompt without its faults."""
    return _DIRECTIVE.sub("", prompt).strip()
