"""Writes a job's events to one HTTP response, with pings, and cuts a reader that does not read."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterable
from typing import Final

from aiohttp import ClientConnectionResetError, HttpVersion11, web

from berlin_worker.client.raw_events import RawEvent
from berlin_worker.client.stream import Stream

PING_S: Final = 10.0
"""Proxies and load balancers cut silent responses, many after 60 s, some after 30 s."""
FIRST_PING_S: Final = 0.75
"""A caller sees within a second that its request was accepted."""
STALL_S: Final = 30.0
"""A reader that makes no room for so long is cut off; it can continue by its cursor."""
PIECE_BYTES: Final = 32 * 1024
"""The largest piece that is written at once. For a reader that does not read, aiohttp keeps up to
128 KiB of the response. The client keeps ``Options.buffer_bytes`` of events; the log has all."""
SEND_BUFFER_BYTES: Final = 128 * 1024
"""The send buffer of each stream's socket. By default the system would keep megabytes for a reader
that does not read."""
_TICK_S: Final = 0.25
HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would collect the events before it passes them on
}
Batch = list[RawEvent]


class Stalled(ConnectionResetError):
    """The reader has not read for ``STALL_S``."""


class EventResponse:
    """A response of type ``text/event-stream`` that is written piece by piece."""

    def __init__(self, request: web.Request, headers: dict[str, str], ping: bytes) -> None:
        self._request = request
        self._response = web.StreamResponse(headers=HEADERS | headers)
        self._ping = ping

    @property
    def response(self) -> web.StreamResponse:
        """The response that the handler returns."""
        return self._response

    @property
    def begun(self) -> bool:
        """Whether the status has been sent, so that an error can no longer change it."""
        return self._response.prepared

    async def finish(self) -> None:
        """End the response."""
        await self._response.write_eof()

    async def ping(self) -> None:
        """Send a comment, which clients skip."""
        await self.write([self._ping])

    async def write(self, frames: Iterable[bytes]) -> None:
        """Send frames. Raises ``ConnectionResetError`` if the reader has gone or does not read."""
        transport = self._request.transport
        if transport is None:
            raise ClientConnectionResetError("the reader has gone")
        if not self._response.prepared:
            if self._request.version < HttpVersion11:
                self._response.force_close()  # nothing else ends a response without chunks
            await self._response.prepare(self._request)
            opened = transport.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        data = b"".join(frames)
        if len(data) <= PIECE_BYTES and not transport.get_write_buffer_size():
            await self._response.write(data)  # there is room: no need to bound the wait for it
            return
        for start in range(0, len(data), PIECE_BYTES):
            try:
                async with asyncio.timeout(STALL_S):
                    await self._response.write(data[start : start + PIECE_BYTES])
            except TimeoutError:
                transport.abort()
                raise Stalled("the reader does not read") from None


class OpenStreams:
    """Counts the open streams of one kind, and ends their waits when the gateway shuts down."""

    def __init__(self) -> None:
        self._waits: dict[asyncio.Timeout, float] = {}
        """Each wait, and when a ping is due (event loop's clock)."""
        self._ticker: asyncio.TimerHandle | None = None
        self._none = asyncio.Event()
        self._none.set()
        self.count = 0
        self.stopped = False

    def stop(self) -> None:
        """End all streams at their next event, or at once if they wait."""
        self.stopped = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            _end(wait, now)

    async def all_ended(self) -> None:
        """Wait until no stream is open."""
        await self._none.wait()

    async def batches(self, stream: Stream) -> AsyncGenerator[Batch | None, None]:
        """Yield the events of ``stream`` as they arrive, and ``None`` when it is time for a ping.

        Ends with the job, or early after ``stop``. Raises what the stream raises.
        """
        self.count += 1
        self._none.clear()
        if self._ticker is None:
            self._tick()
        pause_s = FIRST_PING_S
        clock = asyncio.get_running_loop().time
        try:
            while not self.stopped:
                batch = None
                try:
                    async with asyncio.timeout(None) as wait:
                        self._waits[wait] = clock() + pause_s
                        try:
                            batch = await stream.raw_batch()
                        finally:
                            del self._waits[wait]
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if not wait.expired():
                        raise
                if batch is None and self.stopped:
                    return
                pause_s = PING_S
                yield batch
        finally:
            self.count -= 1
            if not self.count:
                self._none.set()

    def _tick(self) -> None:
        # One timer for all streams: one for each event would cost more than the event.
        loop = asyncio.get_running_loop()
        now = loop.time()
        for wait, due in self._waits.items():
            if due <= now:
                _end(wait, now)
        self._ticker = loop.call_later(_TICK_S, self._tick) if self.count else None


def _end(wait: asyncio.Timeout, now: float) -> None:
    """End a wait. One that has expired is still listed until its reader runs."""
    if not wait.expired():  # else an error would end the timer, and with it all pings
        wait.reschedule(now)
