"""Jobs that have lost their worker so often that the next loss ends them: one at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

ALONE_S: Final = 3.0
"""How long a suspect runs before the next one begins. One that survives it is none any more.
Longer would be surer; but after two faults of the machines every job is a suspect, and each
waits for those before it."""


class Suspects:
    """The suspects of one process, in the order in which they came."""

    def __init__(self, alone_s: float = ALONE_S) -> None:
        self.alone_s = alone_s
        self._lock = asyncio.Lock()
        self.waiting: set[str] = set()
        """The IDs of the jobs that wait for their turn."""

    @property
    def busy(self) -> bool:
        """Whether the next one has to wait."""
        # A lock that was just released is its first waiter's, who has yet to wake up.
        return self._lock.locked() or bool(self.waiting)

    @contextlib.asynccontextmanager
    async def turn(self, job_id: str) -> AsyncIterator[None]:
        """Wait for the turn of a job; it lasts as long as the block, or ``alone_s``."""
        self.waiting.add(job_id)
        try:
            await self._lock.acquire()
        finally:
            self.waiting.discard(job_id)
        over = contextlib.ExitStack()
        over.callback(self._lock.release)
        timer = asyncio.get_running_loop().call_later(self.alone_s, over.close)
        try:
            yield
        finally:
            timer.cancel()
            over.close()  # a second time does nothing
