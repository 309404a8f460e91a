"""Leases: a live worker keeps its jobs, and the jobs of a dead worker are requeued.

A worker renews on the event loop that runs its jobs, so a process whose loop hangs counts as
dead. Every worker reaps; each overdue job is taken by one of them.
"""

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from berlin_schemas import names
from berlin_schemas.jobs import MAX_JOB_BYTES, InvalidJob, dump_job
from berlin_worker.config.recovery_times import QUEUED_AGAIN_S
from berlin_worker.jobs.store import QUEUE_EMPTY, Claim, JobStore, Overdue, recorded_job
from berlin_worker.telemetry.stats import Stats

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 500
"""How many due jobs the reaper takes in one turn."""

_RENEWED_AT_ONCE: Final = 100
"""Leases renewed by one call. While it runs, the server appends no event."""

Discard = Callable[[str, str, str, bytes], Awaitable[None]]
"""Ends a job that can never run; called with job ID, reason, error message, dead letter."""


class Holder(Protocol):
    """The attempt that works on a job."""

    attempt: int

    def lost(self) -> None:
        """Stop without an event: another attempt owns the job, or its record is gone."""

    def cancel(self, reason: str) -> None:
        """Stop, and end the job as cancelled."""


class Nodes(Protocol):
    """The nodes of a cluster."""

    def node_of(self, job_id: str) -> str:
        """Return the node that has the record of a job; empty if none is known to."""

    async def answers(self) -> None:
        """Return as soon as any node answers. Raises ``ConnectionError`` if none does."""


class JobQueue(Protocol):
    """The job queue. Each call raises ``ConnectionError`` while the broker cannot answer."""

    async def requeue(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Put the message of a job on the queue again."""

    async def depth(self) -> int:
        """How many messages wait on the queue."""


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
        self._max_job_bytes = max_job_bytes
        self._store = store
        self._lease_s = lease_s
        self._renew_interval_s = renew_interval_s
        self._reap_interval_s = reap_interval_s
        self._job_queue = job_queue
        self._discard = discard
        self._stats = stats or Stats()
        self._held: dict[str, Holder] = {}
        self._reachable_since: float | None = -math.inf
        self._pending_requeue: Overdue | None = None
        self._answered_at = time.monotonic()
        self._watermark_ms = 0
        self._moves_index = False

    def advance_watermark(self, claim: Claim) -> None:
        """Note that the queue has been consumed up to the time at which this job was submitted.

        Ignored for a job without a record before its claim: its time is that of the claim.
        """
        if claim.attempt == 1 and claim.created_ms < claim.now_ms:
            self._watermark_ms = max(self._watermark_ms, claim.created_ms)

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
        """Every ``reap_interval_s`` put overdue jobs back on the queue, until cancelled."""
        while True:
            await asyncio.sleep(self._reap_interval_s)
            try:
                await self._reap_all()
            except ConnectionError as error:
                self._reachable_since = None
                logger.warning("expired leases cannot be looked for: %s", error)

    async def _renew_logged(self, work: Awaitable[None]) -> None:
        try:
            await work
        except ConnectionError as error:
            self._reachable_since = None
            logger.warning("leases cannot be renewed: %s", error)

    async def _renew_all(self, *, within_s: float = 0.0) -> None:
        # An entry moves a lease ahead, so it need not move at each renewal. Should it be due too
        # early, a reaper finds the lease in the record.
        self._moves_index = not self._moves_index
        # Neighbours in the index, so that a renewal of some jobs changes few of its partitions.
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
            renewal = self._renew_logged(self._renew(by_node[node], within_s))
            self._renewing[node] = asyncio.create_task(renewal, name="renew-node")
        await self._nodes.answers()
        self._answered_at = time.monotonic()

    async def _renew(self, held: Sequence[tuple[str, Holder]], within_s: float) -> None:
        pause_s = within_s * _RENEWED_AT_ONCE / max(len(held), 1)
        for start in range(0, len(held), _RENEWED_AT_ONCE):
            part = held[start : start + _RENEWED_AT_ONCE]
            if start:
                await asyncio.sleep(pause_s)
            leases = [(job_id, each.attempt) for job_id, each in part]
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

    async def _reap_all(self) -> None:
        if self._pending_requeue is not None:
            await _log_errors(self._pending_requeue.job_id, self._requeue(self._pending_requeue))
        await self._store.update_index()
        now = asyncio.get_running_loop().time()
        since = self._reachable_since
        # No worker could renew during an outage: each gets a lease's time to do it.
        settled = since is not None and now - since >= self._lease_s
        turn = await self._store.take_turn(self._reap_interval_s / 2 if settled else 0.0)
        self._answered_at = time.monotonic()
        if since is None:
            self._reachable_since = now
        if not turn or not settled:
            return
        job_ids = await self._store.due(_AT_ONCE)
        # A worker that has just started saw no outage; the uptime of the store shows it.
        if job_ids and await self._store.up_s() >= self._lease_s:
            await self._reap_each(job_ids)
        await self._store.heal_index()

    async def _reap_each(self, job_ids: Sequence[str]) -> None:
        # The message of a job that waits is most likely on the queue, unless a later message has
        # been consumed: a queue that is never empty must not hide a lost message.
        watermark_ms = self._watermark_ms if await self._job_queue.depth() else QUEUE_EMPTY
        for job_id in job_ids:
            await _log_errors(job_id, self._reap(job_id, watermark_ms))
        await self._store.update_index()

    async def _reap(self, job_id: str, watermark_ms: int) -> None:
        overdue = await self._store.reap(
            job_id,
            again_running_s=self._lease_s,
            again_queued_s=QUEUED_AGAIN_S,
            watermark_ms=watermark_ms,
        )
        if overdue is not None:
            await self._requeue(overdue)

    async def _requeue(self, overdue: Overdue) -> None:
        # By now its record is "queued": until the queue is empty, no reaper takes it again.
        self._pending_requeue = overdue
        try:
            # A record may hold anything: only what JSON can encode again is sent.
            most = self._max_job_bytes
            dump_job(recorded_job(overdue.job, max_bytes=most), max_bytes=most)
            await self._job_queue.requeue(overdue.job_id, overdue.job, overdue.trace)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001  # it concerns this job alone
            self._pending_requeue = None
            detail = str(error) if isinstance(error, InvalidJob) else type(error).__name__
            logger.error("job %s has a record that cannot run: %s", overdue.job_id, detail)  # noqa: TRY400  # the line names the fault
            await self._discard(
                overdue.job_id,
                "invalid_record",
                f"the record of the job cannot run: {detail}",
                overdue.job[: 2 * self._max_job_bytes],
            )
            return
        self._pending_requeue = None
        self._stats.reaped.add(overdue.was)
        logger.info(
            "job %s was %s and overdue: back on the queue",
            *(overdue.job_id, overdue.was),
            extra={"job_id": overdue.job_id},
        )


async def _log_errors(job_id: str, work: Awaitable[None]) -> None:
    """Await ``work``, and log its error unless it is the store's: it concerns one job alone."""
    try:
        await work
    except ConnectionError:
        raise
    except Exception:
        logger.exception("job %s was due and cannot be requeued", job_id)
