"""Pings of a stream without events: the first soon after its start, more at intervals."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from berlin_worker.gateway import event_stream
from berlin_worker.gateway.event_stream import OpenStreams

pytestmark = pytest.mark.unit


class Silent:
    """A stream without events."""

    async def raw_batch(self) -> None:
        await asyncio.Event().wait()


def test_pings_come_before_a_proxy_cuts_a_silent_response() -> None:
    assert (event_stream.FIRST_PING_S, event_stream.PING_S) == (0.75, 10.0)


async def test_silent_stream_pings_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "FIRST_PING_S", 0.01)
    monkeypatch.setattr(event_stream, "PING_S", 0.01)
    monkeypatch.setattr(event_stream, "_TICK_S", 0.001)
    streams, pings = OpenStreams(), 0
    silent: Any = Silent()
    async for batch in streams.batches(silent):
        assert batch is None
        pings += 1
        if pings == 3:
            streams.stop()
    await streams.all_ended()
    assert (pings, streams.count) == (3, 0)


@pytest.mark.parametrize("again", [OpenStreams.stop, OpenStreams._tick])
async def test_wait_that_is_ending_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, again: Callable[[OpenStreams], None]
) -> None:
    monkeypatch.setattr(event_stream, "FIRST_PING_S", 0)  # a ping is due at each tick
    monkeypatch.setattr(event_stream, "PING_S", 0)
    monkeypatch.setattr(event_stream, "_TICK_S", 60)
    streams, pinged = OpenStreams(), asyncio.Event()
    silent: Any = Silent()

    async def read() -> None:
        async for _ in streams.batches(silent):
            pinged.set()

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)  # it waits for an event
    streams._tick()
    await asyncio.sleep(0)  # its wait has expired; the reader takes note in the next iteration
    again(streams)
    if not streams.stopped:
        await pinged.wait()
        streams.stop()
    await reader
    assert streams.count == 0
