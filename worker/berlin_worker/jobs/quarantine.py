"""Jobs that have lost their worker so often that the next loss ends them: a few at a time.

A job that kills its worker takes its neighbours with it, and they get the same strikes. So the
last chance of each comes alone, and only the culprit loses it. Where too many wait for that, half
of them begin together: who is there when the process dies loses nothing, and is in a smaller group
next time. After two faults of the machines, with no culprit, 100 of 200 jobs have begun after
3 s, 187 after 12 s, and the last after 51 s.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Final

PROBATION_S: Final = 3.0
"""How long a group runs before the next one begins. Who survives it is no suspect any more.
Longer would be surer: a job that kills later than this may take one that is alone with it."""

_ALONE_UP_TO: Final = 16
"""So few begin one by one at once: a culprit among them kills no worker more than it must."""


def group_size(waiting: int) -> int:
    """How many of the ``waiting`` (one or more) begin together."""
    return 1 if waiting <= _ALONE_UP_TO else waiting // 2


class Quarantine:
    """The suspects of one process, in the order in which they came."""

    def __init__(self, probation_s: float = PROBATION_S) -> None:
        self.probation_s = probation_s
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._group: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether the next one has to wait."""
        return bool(self._group)

    def __len__(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def waits(self, job_id: str) -> bool:
        """Whether this job waits for its turn."""
        return job_id in self._waiting

    @contextlib.asynccontextmanager
    async def turn(self, job_id: str) -> AsyncIterator[bool]:
        """Wait for the turn of a job; it lasts as long as the block, or ``probation_s``.

        Gives whether no other suspect begins with it.
        """
        begin: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[job_id] = begin
        if not self._group:
            self._next_group()
        try:
            yield await begin
        finally:
            if self._waiting.get(job_id) is begin:
                del self._waiting[job_id]
            self._group.discard(job_id)
            if not self._group:
                self._next_group()

    def _next_group(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            self._group = set()
            return
        size = group_size(len(self._waiting))
        self._group = set(itertools.islice(self._waiting, size))
        for job_id in self._group:
            begin = self._waiting.pop(job_id)
            if not begin.done():  # cancelled, and yet to leave
                begin.set_result(size == 1)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.probation_s, self._next_group)
