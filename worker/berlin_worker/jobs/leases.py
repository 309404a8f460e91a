"""Leases: a live worker keeps its jobs, and the jobs of a dead worker are requeued.

A worker renews on the event loop that runs its jobs, so a process whose loop hangs counts as
dead. Every worker reaps; each overdue job is taken by one of them.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from berlin_schemas import names
from berlin_schemas.jobs import MAX_JOB_BYTES
from berlin_worker.jobs.reaper import Discard, JobQueue, Reaper, SearchedNodes
from berlin_worker.jobs.store import Claim, JobStore
from berlin_worker.telemetry.stats import Stats

logger = logging.getLogger(__name__)

_RENEWED_AT_ONCE: Final = 100
"""Leases renewed by one call. While it runs, the server appends no event."""


class Holder(Protocol):
    """The attempt that works on a job."""

    owner: str

    def lost(self) -> None:
        """Stop without an event: another attempt owns the job, or its record is gone."""

    def cancel(self, reason: str) -> None:
        """Stop, and end the job as cancelled."""


class Nodes(SearchedNodes, Protocol):
    """The nodes of a cluster."""

    async def answers(self) -> None:
        """Return as soon as any node answers. Raises ``ConnectionError`` if none does."""


class _Holding(AbstractContextManager[None]):
    # A class, not a generator: each attempt enters one, and a class is cheaper.
    __slots__ = ("_held", "_holder", "_job_id")

    def __init__(self, held: dict[str, Holder], job_id: str, holder: Holder) -> None:
        self._held = held
        self._job_id = job_id
        self._holder = holder

    def __enter__(self) -> None:
        self._held[self._job_id] = self._holder

    def __exit__(self, *_: object) -> None:
        # Unless a later delivery in this very process has claimed the job since.
        if self._held.get(self._job_id) is self._holder:
            del self._held[self._job_id]


class Leases:
    """The leases of one process; ``nodes`` are those of a cluster that has the records.

    The leases at each node are renewed on their own: a node that does not answer holds up no
    other.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        lease_s: float,
        renew_interval_s: float,
        reap_interval_s: float,
        job_queue: JobQueue,
        discard: Discard,
        stats: Stats | None = None,
        max_job_bytes: int = MAX_JOB_BYTES,
        nodes: Nodes | None = None,
    ) -> None:
        self._nodes = nodes
        self._renewing: dict[str, asyncio.Task[None]] = {}
        self._store = store
        self._renew_interval_s = renew_interval_s
        self._discard = discard
        self._stats = stats or Stats()
        self._held: dict[str, Holder] = {}
        self._answered_at = time.monotonic()
        self._moves_index = False
        self._reaper = Reaper(
            store,
            lease_s=lease_s,
            interval_s=reap_interval_s,
            job_queue=job_queue,
            discard=self._discard_job,
            stats=self._stats,
            max_job_bytes=max_job_bytes,
            nodes=nodes,
            answered=self._answered,
        )

    def advance_watermark(self, claim: Claim) -> None:
        """Note that the queue has been consumed up to the time at which this job was submitted.

        Ignored for a job without a record before its claim: its time is that of the claim.
        """
        if claim.attempt == 1 and claim.created_ms < claim.now_ms:
            self._reaper.watermark_ms = max(self._reaper.watermark_ms, claim.created_ms)

    async def _discard_job(self, job_id: str, reason: str, detail: str, message: bytes) -> None:
        await self._discard(job_id, reason, detail, message)

    def _answered(self) -> None:
        self._answered_at = time.monotonic()

    def holding(self, job_id: str, holder: Holder) -> AbstractContextManager[None]:
        """Renew the lease of a claimed job for as long as a ``with`` block runs."""
        return _Holding(self._held, job_id, holder)

    def holder(self, job_id: str) -> Holder | None:
        """Return the attempt that works on the job in this process."""
        return self._held.get(job_id)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def silent_s(self) -> float:
        """Seconds since the last answer of the store; a call follows each ``reap_interval_s``."""
        return time.monotonic() - self._answered_at

    async def renew_forever(self) -> None:
        """Renew every ``renew_interval_s`` until cancelled, spread over half of that time."""
        clock = asyncio.get_running_loop().time
        due = clock()
        try:
            while True:
                due = max(due + self._renew_interval_s, clock())
                await asyncio.sleep(due - clock())
                await self._renew_logged(self._renew_all(within_s=self._renew_interval_s / 2))
        finally:
            for task in self._renewing.values():
                task.cancel()

    async def reap_forever(self) -> None:
        """Put overdue jobs back on the queue every ``reap_interval_s``, until cancelled."""
        await self._reaper.run()

    async def _reap_all(self) -> None:
        await self._reaper.search()

    async def _renew_logged(self, work: Awaitable[None], node: str = "") -> None:
        try:
            await work
        except ConnectionError as error:
            self._reaper.outages.failed(node)
            logger.warning("leases cannot be renewed: %s", error)

    async def _renew_all(self, *, within_s: float = 0.0) -> None:
        # An entry moves a lease ahead, so it need not move at each renewal. If it is due too
        # early, a reaper finds the lease in the record.
        self._moves_index = not self._moves_index
        # Sorted by partition of the index, so that each call changes few partitions.
        held = sorted(self._held.items(), key=lambda each: names.due_key(each[0]))
        if self._nodes is None:
            await self._renew(held, within_s)
            return
        for node, task in list(self._renewing.items()):
            if task.done():
                del self._renewing[node]
                task.result()
        by_node: defaultdict[str, list[tuple[str, Holder]]] = defaultdict(list)
        for each in held:
            by_node[self._nodes.node_of(each[0])].append(each)
        for node in by_node.keys() - self._renewing.keys():
            renewal = self._renew_logged(self._renew(by_node[node], within_s), node)
            self._renewing[node] = asyncio.create_task(renewal, name="renew-node")
        await self._nodes.answers()
        self._answered_at = time.monotonic()

    async def _renew(self, held: Sequence[tuple[str, Holder]], within_s: float) -> None:
        pause_s = within_s * _RENEWED_AT_ONCE / max(len(held), 1)
        for start in range(0, len(held), _RENEWED_AT_ONCE):
            part = held[start : start + _RENEWED_AT_ONCE]
            if start:
                await asyncio.sleep(pause_s)
            leases = [(job_id, each.owner) for job_id, each in part]
            replies = await self._store.renew(leases, index=self._moves_index)
            self._answered_at = time.monotonic()
            for (job_id, holder), reply in zip(part, replies, strict=True):
                if self._held.get(job_id) is not holder:
                    continue  # ended, or replaced by its next attempt, in the meantime
                if reply == "lost":
                    self._stats.leases_lost += 1
                    holder.lost()
                elif reply != "renewed":
                    holder.cancel(reply)
