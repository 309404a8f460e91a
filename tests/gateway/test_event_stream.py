"""Pings of a stream without events: the first soon after its start, more at intervals."""

import asyncio
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
