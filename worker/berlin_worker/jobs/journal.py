"""The writer of all job logs of a process: append and publish in one step, fenced, batched.

On one server all logs share a lane. On a cluster each node has a lane, so that a node that does
not answer holds up the jobs of its own slots alone.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Final

from berlin_schemas import names
from berlin_worker.jobs.job_log import JobLog
from berlin_worker.jobs.journal_lane import EventStore, Lane
from berlin_worker.jobs.store import Claim
from berlin_worker.telemetry.stats import Stats

_SHARED_AGAIN_S: Final = 5.0
_TURN_S: Final = 0.002
"""How often a lane of a cluster begins a batch at most. The events of a process are spread over the
nodes, and a batch costs a node as much as five events, however few it holds."""
_ONE: Final = ""
"""The name of the only lane."""


class Journal:
    """One writer for all logs of a process; ``buffer_bytes`` bounds its buffer.

    ``database`` is the number of the store's database on its server; events name it. ``node_of``
    returns the node of a cluster that has the log of a job at the moment, ``nodes`` all of them.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        buffer_bytes: int,
        stats: Stats | None = None,
        database: int = 0,
        node_of: Callable[[str], str] | None = None,
        nodes: Callable[[], Collection[str]] = lambda: (),
    ) -> None:
        self._store = store
        self.database = database
        self._limit = buffer_bytes
        self.stats = stats or Stats()
        self._node_of = node_of
        self._nodes = nodes
        self._lanes: dict[str, Lane] = {}
        self._new_lane = asyncio.Event()
        if node_of is None:
            self._lane(_ONE)

    def open(self, claim: Claim, *, on_fenced: Callable[[], object]) -> JobLog:
        """Return the log of a job for the attempt that ``claim`` has begun."""
        job_id = names.check_job_id(claim.job_id)
        lane = self._lane(_ONE if self._node_of is None else self._node_of(job_id))
        return JobLog(
            lane,
            job_id,
            claim.attempt,
            owner=claim.owner,
            seq=claim.seq,
            chunks=claim.chunks,
            database=self.database,
            on_fenced=on_fenced,
        )

    @property
    def buffered_bytes(self) -> int:
        """The bytes that wait to be sent."""
        return sum([lane.buffered_bytes for lane in self._lanes.values()])

    async def run(self) -> None:
        """Send the events of all logs, until cancelled."""
        if self._node_of is None:
            await self._lanes[_ONE].run()
            return
        running = 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                lanes = list(self._lanes.values())  # in the order in which they were added
                for lane in lanes[running:]:
                    tasks.create_task(lane.run())
                running = len(lanes)
                self._new_lane.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SHARED_AGAIN_S):
                        await self._new_lane.wait()
                self._share()

    async def drained(self) -> None:
        """Return when the buffer is empty."""
        while self.buffered_bytes:
            for lane in list(self._lanes.values()):
                await lane.drained()

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            moved = None if self._node_of is None else self._moved
            turn_s = 0.0 if self._node_of is None else _TURN_S
            lane = Lane(self._store, limit=0, stats=self.stats, turn_s=turn_s, moved=moved)
            self._lanes[name] = lane
            self._new_lane.set()
            self._share()
        return lane

    def _share(self) -> None:
        """Give each lane its part of the buffer, which a node that does not answer may fill.

        The lane of a node that has left counts only for as long as events wait in it.
        """
        if self._node_of is None:
            self._lanes[_ONE].limit = self._limit
            return
        there = set(self._nodes()) or self._lanes.keys()
        used = sum([name in there or lane.buffered_bytes > 0 for name, lane in self._lanes.items()])
        for lane in self._lanes.values():
            lane.limit = self._limit // max(used, 1)
            lane.freed(0)  # there may be room by now

    def _moved(self, log: JobLog, lane: Lane) -> bool:
        assert self._node_of is not None
        home = self._lane(self._node_of(log.job_id))
        if home is lane:
            return False
        log.move(home)
        return True
