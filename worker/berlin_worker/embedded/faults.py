"""What can go wrong at the stand-in upstream, as a table. Pure.

A fault is written ``name`` or ``name:argument:argument``, for instance ``cut:3`` or
``status:503:2``. A prompt brings its own in double square brackets, so that one
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
    """How one call is answered."""

    chunks: tuple[str, ...] = ()
    raw: bytes | None = None
    """Sent as it is in place of the chunks."""
    delay_s: float = 0.0
    """Before each chunk; in a login before the answer."""
    status: int = 200
    retry_after: str | None = None
    expire: bool = False
    """All tokens expire first, the one of this call among them."""
    leak: bool = False
    """The error body repeats the token and the credentials."""
    end: Literal["end", "cut", "half", "unfinished", "stall", "garbage", "endless"] = "end"
    """What follows the chunks."""
    drip_s: float | None = None
    """Every byte on its own, so many seconds apart."""
    gzip: bool = False
    bomb_bytes: int = 0
    silent: Literal["", "drop", "mute"] = ""
    """No answer at all: the connection closes, or nothing happens."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of :data:`FAULTS` with its arguments; ``times=None`` is at every call."""

    name: str
    arguments: tuple[float, ...] = ()
    times: int | None = None

    def apply(self, plan: Plan) -> Plan:
        """``plan`` with this fault in it."""
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


FAULTS: Final[dict[str, Callable[..., Plan]]] = {
    # status:503, status:429:2 (with Retry-After, seconds); a 3xx redirects to nowhere
    "status": _status,
    # 401, and every token that was given out is worthless from here on
    "expire": _expire,
    # leak:500: the error body repeats token, account and password
    "leak": _leak,
    # status 200 with an error object in place of the reply
    "error_body": _error_body,
    # the connection closes before there is an answer
    "drop": lambda plan: replace(plan, silent="drop"),
    # the call is taken, and no answer ever comes
    "mute": lambda plan: replace(plan, silent="mute"),
    # cut:3: the connection closes after three chunks, in the midst of the body
    "cut": lambda plan, after: replace(plan, chunks=plan.chunks[: int(after)], end="cut"),
    # half:3: after three chunks half a line, and the body ends by the rules of HTTP
    "half": lambda plan, after: replace(plan, chunks=plan.chunks[: int(after)], end="half"),
    # unfinished:3: compressed, and after three chunks the body ends without the trailer of gzip
    "unfinished": lambda plan, after: replace(
        plan, chunks=plan.chunks[: int(after)], gzip=True, end="unfinished"
    ),
    # stall:3: silence after three chunks, until the client leaves
    "stall": lambda plan, after: replace(plan, chunks=plan.chunks[: int(after)], end="stall"),
    # garbage:3: after three chunks a line that is no JSON, then the rest is left out
    "garbage": lambda plan, after: replace(plan, chunks=plan.chunks[: int(after)], end="garbage"),
    # the reply again and again, until the client leaves
    "endless": lambda plan: replace(plan, end="endless"),
    # drip:0.01: every byte on its own, with 10 ms before each
    "drip": lambda plan, delay_s: replace(plan, drip_s=delay_s),
    # the reply is compressed, each chunk flushed
    "gzip": lambda plan: replace(plan, gzip=True),
    # bomb:100: one line of 100 MB, compressed to next to nothing
    "bomb": lambda plan, size_mb: replace(plan, bomb_bytes=int(size_mb * 1_000_000)),
    # No faults, but the shape of a reply. chunks:200: as many chunks, the words repeated
    "chunks": _chunks,
    # delay:0.01: seconds before each chunk; of a login before the answer
    "delay": lambda plan, delay_s: replace(plan, delay_s=delay_s),
}

_DIRECTIVE: Final = re.compile(r"\[\[([a-z_]+(?::[0-9.]+)*(?:\*[0-9]+)?)\]\]")


def parse(text: str, times: int | None = None) -> Fault:
    """The fault that ``text`` names; raises ``ValueError`` if there is none like it."""
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
    """The faults that a prompt brings, in their order; raises ``ValueError`` as :func:`parse`."""
    return [parse(found) for found in _DIRECTIVE.findall(prompt)]


def without_faults(prompt: str) -> str:
    """The prompt as a reader should see it."""
    return _DIRECTIVE.sub("", prompt).strip()
