"""Writes a job's events to one HTTP response, with pings, and cuts a reader that does not read."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Final

from aiohttp import web

from berlin_worker.client.raw_events import RawEvent
from berlin_worker.client.stream import Stream

PING_S: Final = 10.0
"""Proxies and load balancers cut silent responses, many after 60 s, some after 30 s."""
FIRST_PING_S: Final = 1.0
"""A caller sees within a second that its request was taken."""
STALL_S: Final = 30.0
"""A reader that has not made room for so long is cut; it comes back with its cursor."""
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
        """What the handler returns."""
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
        if not self._response.prepared:
            await self._response.prepare(self._request)
        try:
            async with asyncio.timeout(STALL_S):
                await self._response.write(b"".join(frames))
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise Stalled from None


class OpenStreams:
    """Counts the open streams of one kind, and ends their waits when the gateway leaves."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Timeout] = set()
        self._none = asyncio.Event()
        self._none.set()
        self.count = 0
        self.stopped = False

    def stop(self) -> None:
        """End all streams at their next event, or at once if they wait."""
        self.stopped = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    async def all_ended(self) -> None:
        """Wait until no stream is open."""
        await self._none.wait()

    async def batches(self, stream: Stream) -> AsyncGenerator[Batch | None, None]:
        """Yield the events of ``stream`` as they arrive, and ``None`` when it is time for a ping.

        Ends with the job, or early after ``stop``. Raises what the stream raises.
        """
        self.count += 1
        self._none.clear()
        try:
            pause_s = FIRST_PING_S
            while not self.stopped:
                try:
                    batch = await self._next(stream, pause_s)
                except StopAsyncIteration:
                    return
                if batch is None and self.stopped:
                    return
                pause_s = PING_S
                yield batch
        finally:
            self.count -= 1
            if not self.count:
                self._none.set()

    async def _next(self, stream: Stream, pause_s: float) -> Batch | None:
        try:
            async with asyncio.timeout(pause_s) as wait:
                self._waits.add(wait)
                try:
                    return await stream.raw_batch()
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            return None
