"""The upstream of the benchmark on a bare ``asyncio.Protocol`` over uvloop.

It serves Berlin's protocol and OpenAI's. The prompt determines the stream:
``chunks=200 every_ms=100 per_write=1``; ``every_ms=0`` is flat out. The text of a chunk opens with
the time of its write (ns of the monotonic clock, which all processes of a machine share) and its
index, so that a reader can count lag, loss and duplicates.

Run as a script it prints its port, and ends when its standard input ends.
"""

import asyncio
import re
import sys
import time
from collections import deque
from typing import cast

import uvloop

from tests.benchmarks.measure import raise_open_files

_PLAN = re.compile(rb"chunks=(\d+) every_ms=(\d+) per_write=(\d+)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_LOGIN = b'{"code": 0, "data": {"token": "a-token"}}'
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
LINE = b'{"content": "%d %d token "}\n'
# What OpenAI sends around a word: 290 bytes, and a padding of random length.
EVENT = (
    b'data: {"id":"chatcmpl-BxYzAbCdEfGhIjKlMnOpQrStUvWx","object":"chat.completion.chunk",'
    b'"created":1764412345,"model":"gpt-4o-mini-2024-07-18","service_tier":"default",'
    b'"system_fingerprint":"fp_8bda4d3a2c","choices":[{"index":0,"delta":{"content":'
    b'"%d %d token "},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
PADDED = EVENT.replace(b'"usage":null}', b'"usage":null,"obfuscation":"%b"}')
PADDINGS = tuple(b"aB3xYzQ9kLm0pR7wT"[:length] for length in (5, 11, 2, 16, 7, 13, 1, 9))
_DONE = b"data: [DONE]\n\n"
_BACKLOG = 8192
_TICK_S = 0.001
_GOLDEN = 0.6180339887  # its multiples fill an interval evenly, whatever their number


def prompt(chunks: int, every_ms: int, per_write: int = 1) -> str:
    """Return the prompt that requests this reply."""
    return f"chunks={chunks} every_ms={every_ms} per_write={per_write}"


def _line(now: int, index: int) -> bytes:
    return LINE % (now, index)


def _event(now: int, index: int) -> bytes:
    return PADDED % (now, index, PADDINGS[index % len(PADDINGS)])


class Pacer:
    """Writes when a reply is due: one timer of 1 ms for all that are paced, turns for the rest."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[int, list[Connection]] = {}
        self._tick = self._now()
        self._flat: deque[Connection] = deque()
        self._phase = 0.0
        loop.call_later(_TICK_S, self._on_tick)

    def begin(self, connection: "Connection") -> None:
        """Write the first chunk now, and each further one in its time.

        The second comes after a part of the interval. Else replies that begin together would go on
        together, as bursts, and the quickest worker would have the worst bursts.
        """
        self._phase = (self._phase + _GOLDEN) % 1.0
        connection.due = self._now() - int(self._phase * connection.every_ms)
        self._step(connection)

    def flat_out(self, connection: "Connection") -> None:
        """Write a chunk in each turn of the loop until the buffer is full or the reply complete."""
        if not self._flat:
            self._loop.call_soon(self._on_turn)
        self._flat.append(connection)

    def _step(self, connection: "Connection") -> None:
        if not connection.write():
            return
        if connection.every_ms == 0:
            self.flat_out(connection)
            return
        connection.due = max(connection.due + connection.every_ms, self._tick + 1)
        self._due.setdefault(connection.due, []).append(connection)

    def _on_tick(self) -> None:
        self._loop.call_later(_TICK_S, self._on_tick)
        now = self._now()
        while self._tick < now:
            self._tick += 1
            for connection in self._due.pop(self._tick, ()):
                self._step(connection)

    def _on_turn(self) -> None:
        turn, self._flat = self._flat, deque()
        for connection in turn:
            if connection.writable and connection.write():
                self.flat_out(connection)

    @staticmethod
    def _now() -> int:
        return time.monotonic_ns() // 1_000_000


class Connection(asyncio.Protocol):
    """One connection, which is kept alive: requests in, one reply at a time out."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._buffer = b""
        self._head = self._end = b""
        self._chunk = _line
        self._index = self._chunks = self._per_write = 0
        self._transport: asyncio.Transport | None = None
        self.writable = False
        self.every_ms = self.due = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.writable = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.writable = False

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._index < self._chunks and self.every_ms == 0:
            self._pacer.flat_out(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or length is None or len(rest) < int(length[1]):
            return
        body, self._buffer = rest[: int(length[1])], rest[int(length[1]) :]
        if head.startswith(b"POST /api/login"):
            assert self._transport is not None
            self._transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (_OK, len(_LOGIN), _LOGIN))
        elif plan := _PLAN.search(body):
            self._chunks, self.every_ms, self._per_write = map(int, plan.groups())
            self._index = 0
            is_openai = head.startswith(b"POST /v1/")
            self._chunk, self._end = (_event, _DONE) if is_openai else (_line, b"")
            self._head = (_SSE if is_openai else _OK) + b"Transfer-Encoding: chunked\r\n\r\n"
            self._pacer.begin(self)

    def write(self) -> bool:
        """Write the chunks of one turn; return whether more are to come."""
        if self._transport is None:
            return False
        last = min(self._index + self._per_write, self._chunks)
        now = time.monotonic_ns()
        lines = b"".join(self._chunk(now, index) for index in range(self._index, last))
        lines += self._end if last == self._chunks else b""
        end = b"0\r\n\r\n" if last == self._chunks else b""
        self._transport.write(b"%b%x\r\n%b\r\n%b" % (self._head, len(lines), lines, end))
        self._head = b""
        self._index = last
        return last < self._chunks


async def serve() -> None:
    """Serve until the standard input ends."""
    loop = asyncio.get_running_loop()
    pacer = Pacer(loop)
    server = await loop.create_server(lambda: Connection(pacer), "127.0.0.1", backlog=_BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    raise_open_files()
    uvloop.run(serve())
