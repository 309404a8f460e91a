"""Quarantine: a job that one more lost worker would end begins alone, or in a small group.

A job that kills its worker takes its neighbours with it, and each counts one failed attempt. So
before its final attempt a job runs in isolation, and a crash takes no other job with it. If more
than 16 jobs wait, half of them begin together. If the process dies then, no job of that group
counts a failed attempt, and the next group is smaller.

An example: machines have failed twice, and none of 200 jobs kills its worker. Then 100 jobs have
begun after 3 s, 187 after 12 s, and the last one after 51 s. Jobs that had run for longer than an
observation do not wait: see :mod:`berlin_worker.jobs.observation`.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Final

OBSERVATION_S: Final = 3.0
"""How long a group runs before the next one begins; a job that survives it leaves the quarantine.
A job that kills its worker after this time may take a neighbour with it."""

_ALONE_UP_TO: Final = 16
"""Up to this many begin one by one, so that one that kills its worker takes no neighbour along."""


def group_size(waiting: int) -> int:
    """Return how many of the ``waiting`` jobs (one or more) begin together."""
    return 1 if waiting <= _ALONE_UP_TO else waiting // 2


class Quarantine:
    """The jobs of one process that wait for a slot, in order of arrival."""

    def __init__(self, observation_s: float = OBSERVATION_S) -> None:
        self.observation_s = observation_s
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._group: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether the next job has to wait."""
        return bool(self._group)

    def __len__(self) -> int:
        """Return how many jobs wait for a slot."""
        return len(self._waiting)

    def waits(self, job_id: str) -> bool:
        """Return whether this job waits for a slot."""
        return job_id in self._waiting

    @contextlib.asynccontextmanager
    async def slot(self, job_id: str) -> AsyncIterator[bool]:
        """Wait for a slot; the job has it as long as the block runs, ``observation_s`` at most.

        Yields whether the job begins alone.
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
        self._timer = loop.call_later(self.observation_s, self._next_group)
