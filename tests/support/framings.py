"""The ways in which a body travels over HTTP/1, whole and cut."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.raw_upstream import reset


@dataclass(frozen=True, slots=True)
class Framing:
    """How a body travels. ``is_sound``: its end is an end by the rules of HTTP."""

    version: bytes
    headers: bytes
    body: Callable[[bytes], bytes]
    is_sound: bool = True
    missing: int = 0
    """How many bytes fewer come than the length promises."""
    end: str = "keep"
    """After the body: ``keep`` the connection, ``close`` it, or ``reset`` it."""


def chunked(data: bytes, size: int = 7) -> bytes:
    chunks = [data[place : place + size] for place in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def as_it_is(data: bytes) -> bytes:
    return data


LENGTH = b"Content-Length: %d\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
FRAMINGS = {
    "chunked": Framing(b"1.1", CHUNKED, chunked),
    "chunked, without its end": Framing(
        b"1.1", CHUNKED, lambda data: chunked(data)[:-5], is_sound=False, end="close"
    ),
    "chunked, reset": Framing(
        b"1.1", CHUNKED, lambda data: chunked(data)[:-5], is_sound=False, end="reset"
    ),
    "length": Framing(b"1.1", LENGTH, as_it_is),
    "length, then reset": Framing(b"1.1", LENGTH, as_it_is, end="reset"),
    "length, one byte missing": Framing(
        b"1.1", LENGTH, as_it_is, is_sound=False, missing=1, end="close"
    ),
    "length, reset": Framing(b"1.1", LENGTH, as_it_is, is_sound=False, missing=1, end="reset"),
    "until close": Framing(b"1.1", b"Connection: close\r\n", as_it_is, end="close"),
    "until close, without a word": Framing(b"1.1", b"", as_it_is, end="close"),
    "until reset": Framing(b"1.1", b"", as_it_is, is_sound=False, end="reset"),
    "1.0, until close": Framing(b"1.0", b"", as_it_is, end="close"),
    "1.0, until reset": Framing(b"1.0", b"", as_it_is, is_sound=False, end="reset"),
    "1.0, keep-alive": Framing(b"1.0", LENGTH + b"Connection: keep-alive\r\n", as_it_is),
    "1.0, keep-alive, then close": Framing(
        b"1.0", b"Connection: keep-alive\r\n", as_it_is, end="close"
    ),
}


async def write(writer: asyncio.StreamWriter, framing: Framing, body: bytes, coding: str) -> None:
    """Write a response with ``body``; ``coding`` is its content coding, "" for none."""
    headers = framing.headers
    if headers.startswith(LENGTH):
        headers = headers.replace(b"%d", b"%d" % (len(body) + framing.missing))
    if coding:
        headers += b"Content-Encoding: %b\r\n" % coding.encode()
    writer.write(b"HTTP/%b 200 OK\r\n%b\r\n" % (framing.version, headers))
    writer.write(framing.body(body))
    await writer.drain()
    if framing.end == "reset":
        reset(writer)
    elif framing.end == "close":
        writer.close()
