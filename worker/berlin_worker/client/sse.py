"""Events of a job as server-sent events, ready for a response of type ``text/event-stream``."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from berlin_worker.client.raw_events import RawEvent
from berlin_worker.client.stream import Stream

PING_S: Final = 15.0
"""Proxies cut responses that are silent for longer, nginx by default after 60 s."""
PING: Final = b": waiting\n\n"
_MAX_DIGITS: Final = 15


def cursor(last_event_id: str | None) -> int:
    """Return the ``seq`` that a ``Last-Event-ID`` names; 0 if it is missing or no ``seq``."""
    text = (last_event_id or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else 0


def frame(event: RawEvent) -> bytes:
    """Return a frame: ``id`` is the ``seq``, ``event`` the type, ``data`` the event's bytes."""
    seq, kind, data = event
    # A browser joins the lines of `data` by a newline, which is white space in JSON.
    data = b"\ndata: ".join(data.splitlines())
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (seq, kind.encode(), data)


async def frames(stream: Stream) -> AsyncGenerator[bytes, None]:
    """Yield a frame for each event of ``stream``, or a comment; close ``stream`` at the end."""
    async with stream:
        while True:
            try:
                async with asyncio.timeout(PING_S):
                    batch = await stream.raw_batch()
            except TimeoutError:
                yield PING
                continue
            except StopAsyncIteration:
                return
            for event in batch:
                yield frame(event)
