"""Signs of life of the two halves of a worker: the event loop, and Celery's consumer.

Whatever else a process does, it works only while both go on. Each gives a sign a few times a
second or so from within; whoever asks, from any thread, hears how long ago the last one was.
"""

import asyncio
from time import monotonic
from typing import Final

from berlin_worker.telemetry.stats import Histogram

_TICK_S: Final = 0.25


class Sign:
    """The last sign of life of something; the first one is when it was made."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at = monotonic()

    def give(self) -> None:
        """It lives."""
        self._at = monotonic()

    @property
    def silence_s(self) -> float:
        """How long ago the last sign was given."""
        return monotonic() - self._at


class Life:
    """What a process shows of its life. ``slots`` is how many jobs it runs at most."""

    def __init__(self) -> None:
        self.loop = Sign()
        self.consumer = Sign()
        self.draining = False
        self.slots: int | None = None

    async def beat_forever(self, lag: Histogram) -> None:
        """Give the sign of the event loop until cancelled; notes in ``lag`` how late it came."""
        while True:
            self.loop.give()
            due = monotonic() + _TICK_S
            await asyncio.sleep(_TICK_S)
            lag.observe(max(0.0, monotonic() - due))


LIFE: Final = Life()
"""Of this process: Celery makes the consumer, and the pool the event loop."""
