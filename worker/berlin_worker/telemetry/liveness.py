"""Heartbeats of the two halves of a worker: the event loop, and Celery's consumer.

A worker works only while both run. Each beats once a second or more often; any thread may read
how long ago the last beat was.
"""

import asyncio
from time import monotonic
from typing import Final

from berlin_worker.telemetry.counts import Histogram

_TICK_S: Final = 0.25


class Heartbeat:
    """The time of the last beat; creating it is the first one."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at = monotonic()

    def beat(self) -> None:
        """Record a beat."""
        self._at = monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the last beat."""
        return monotonic() - self._at


class Liveness:
    """The heartbeats of a process. ``slots``: the most jobs that it runs at once."""

    def __init__(self) -> None:
        self.loop = Heartbeat()
        self.consumer = Heartbeat()
        self.draining = False
        self.slots: int | None = None

    async def beat_forever(self, lag: Histogram) -> None:
        """Beat for the event loop until cancelled; ``lag`` counts its delays, in seconds."""
        while True:
            self.loop.beat()
            due = monotonic() + _TICK_S
            await asyncio.sleep(_TICK_S)
            lag.observe(max(0.0, monotonic() - due))


LIVENESS: Final = Liveness()
"""The liveness of this process. Celery starts the consumer, the pool starts the event loop."""
