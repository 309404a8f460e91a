"""Reaping: a job whose lease has expired, or whose message was lost, returns to the queue.

The index of due jobs has partitions, and a job and its entry may be at different nodes. Each node
is searched, and reaped, by a task of its own: one that does not answer holds up no other.
"""

import asyncio
import contextlib
import functools
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from berlin_schemas.jobs import InvalidJob, dump_job
from berlin_worker.config.recovery_times import QUEUED_AGAIN_S
from berlin_worker.jobs.outages import Outages
from berlin_worker.jobs.store import QUEUE_EMPTY, JobStore, Overdue, recorded_job
from berlin_worker.telemetry.stats import Stats

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 500
"""How many due jobs are found in one search of a node."""
_ONE: Final = ""
"""The name of the only server."""

Discard = Callable[[str, str, str, bytes], Awaitable[None]]
"""Ends a job that can never run; called with job ID, reason, error message, dead letter."""


class JobQueue(Protocol):
    """The job queue. Each call raises ``ConnectionError`` while the broker cannot answer."""

    async def requeue(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Put the message of a job on the queue again."""

    async def depth(self) -> int:
        """Return how many messages wait on the queue."""


class SearchedNodes(Protocol):
    """The nodes of a cluster. Calls raise ``ConnectionError`` while a node cannot answer."""

    def names(self) -> list[str]:
        """Return the nodes that have records of jobs."""

    def node_of(self, job_id: str) -> str:
        """Return the node that has the record of a job; empty if no node is known to have it."""

    async def take_turn(self, node: str, for_s: float) -> bool:
        """Return whether this caller alone searches ``node`` for the next ``for_s``."""

    async def due(self, node: str, limit: int) -> list[str]:
        """Return the IDs of up to ``limit`` jobs that are due by the entries at ``node``."""

    def postpone(self, job_ids: Sequence[str]) -> None:
        """Let jobs be due again after a lease."""

    async def up_s(self, node: str) -> float:
        """Return for how long (s) ``node`` has been up."""

    async def heal(self, node: str) -> list[str]:
        """Restore lost entries of some jobs whose records are at ``node``.

        Returns the jobs whose entries cannot be written, since other nodes do not answer.
        """


class _OneServer:
    """One server as the only node."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def names(self) -> list[str]:
        return [_ONE]

    def node_of(self, job_id: str) -> str:  # noqa: ARG002  # only a cluster needs the job ID
        return _ONE

    async def take_turn(self, node: str, for_s: float) -> bool:  # noqa: ARG002  # only one node
        return await self._store.take_turn(for_s)

    async def due(self, node: str, limit: int) -> list[str]:  # noqa: ARG002  # only one node
        return await self._store.due(limit)

    def postpone(self, job_ids: Sequence[str]) -> None:
        """Do nothing: the only server has just answered."""

    async def up_s(self, node: str) -> float:  # noqa: ARG002  # only one node
        return await self._store.up_s()

    async def heal(self, node: str) -> list[str]:  # noqa: ARG002  # only one node
        await self._store.heal_index()
        return []


class Reaper:
    """Finds due jobs every ``interval_s`` and puts them back on the queue.

    ``nodes`` are those of a cluster, ``answered`` is called when the store has answered.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        lease_s: float,
        interval_s: float,
        job_queue: JobQueue,
        discard: Discard,
        stats: Stats,
        max_job_bytes: int,
        nodes: SearchedNodes | None,
        answered: Callable[[], None],
    ) -> None:
        self._store = store
        self._lease_s = lease_s
        self._interval_s = interval_s
        self._job_queue = job_queue
        self._discard = discard
        self._stats = stats
        self._max_job_bytes = max_job_bytes
        self._on_cluster = nodes is not None
        self._nodes: SearchedNodes = nodes or _OneServer(store)
        self._answered = answered
        self.outages = Outages(lease_s)
        self.watermark_ms = 0
        self._pending: dict[str, Overdue] = {}
        self._searching: dict[str, asyncio.Task[None]] = {}
        self._reaping: dict[str, asyncio.Task[None]] = {}
        self._found: defaultdict[str, dict[str, None]] = defaultdict(dict)

    async def run(self) -> None:
        """Search every ``interval_s`` until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._interval_s)
                await self._logged(_ONE, self.search)
        finally:
            for task in (*self._searching.values(), *self._reaping.values()):
                task.cancel()

    async def search(self) -> None:
        """Search once. On a cluster, start a search of each node whose last search has ended.

        Raises ``ConnectionError`` if the broker, or the only server, cannot answer.
        """
        for overdue in list(self._pending.values()):
            await _log_errors(overdue.job_id, self._requeue(overdue))
        await self._store.update_index()
        if not self._on_cluster:
            await self._look(_ONE)
            return
        nodes = self._nodes.names()
        self.outages.serving(nodes, asyncio.get_running_loop().time())
        for node in nodes:
            _start(self._searching, node, functools.partial(self._logged, node, self._look, node))

    async def _look(self, node: str) -> None:
        """Search one node, unless another worker does."""
        clock = asyncio.get_running_loop().time
        settled = self.outages.settled(node, clock())
        self.outages.asked(node, clock())
        turn = await self._nodes.take_turn(node, self._interval_s / 2 if settled else 0.0)
        self.outages.answered(node, clock())
        self._answered()
        if not turn or not settled:
            return
        found: defaultdict[str, list[str]] = defaultdict(list)
        for job_id in await self._nodes.due(node, _AT_ONCE):
            found[self._nodes.node_of(job_id)].append(job_id)
        for home, job_ids in found.items():
            if not self.outages.settled(home, clock()):
                # If they stayed due, they would hide jobs that can be reaped.
                self._nodes.postpone(job_ids)
            else:
                await self._found_at(home, job_ids)
        # A record is the truth: a job is reaped even if its entry is at a node that is away.
        await self._found_at(node, await self._nodes.heal(node))

    async def _found_at(self, home: str, job_ids: Sequence[str]) -> None:
        if not job_ids:
            return
        self._found[home].update(dict.fromkeys(job_ids))
        if self._on_cluster:
            _start(self._reaping, home, functools.partial(self._logged, home, self._reap_all, home))
        else:
            await self._reap_all(home)

    async def _reap_all(self, home: str) -> None:
        try:
            while job_ids := self._found.pop(home, None):
                await self._reap_each(home, list(job_ids))
        finally:
            self._found.pop(home, None)

    async def _reap_each(self, home: str, job_ids: Sequence[str]) -> None:
        # A worker that has just started saw no outage; the uptime of the node shows it.
        if await self._nodes.up_s(home) < self._lease_s:
            return
        # The message of a job that waits is most likely on the queue, unless a later message has
        # been consumed: a queue that is never empty must not hide a lost message.
        watermark_ms = self.watermark_ms if await self._job_queue.depth() else QUEUE_EMPTY
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
            # Without this note it is put on the queue once more; a second message does no harm.
            with contextlib.suppress(ConnectionError):
                await self._store.requeued(job_id)

    async def _requeue(self, overdue: Overdue) -> None:
        try:
            # A record may hold anything: only what JSON can encode again is sent.
            most = self._max_job_bytes
            dump_job(recorded_job(overdue.job, max_bytes=most), max_bytes=most)
            await self._job_queue.requeue(overdue.job_id, overdue.job, overdue.trace)
        except ConnectionError:
            # By now its record is "queued": no reaper takes it again at once.
            self._pending[overdue.job_id] = overdue
            raise
        except Exception as error:  # noqa: BLE001  # it concerns this job alone
            self._pending.pop(overdue.job_id, None)
            detail = str(error) if isinstance(error, InvalidJob) else type(error).__name__
            logger.error("job %s has a record that cannot run: %s", overdue.job_id, detail)  # noqa: TRY400  # the line names the fault
            await self._discard(
                overdue.job_id,
                "invalid_record",
                f"the record of the job cannot run: {detail}",
                overdue.job[: 2 * self._max_job_bytes],
            )
            return
        self._pending.pop(overdue.job_id, None)
        self._stats.reaped.add(overdue.was)
        logger.info(
            "job %s was %s and overdue: back on the queue",
            *(overdue.job_id, overdue.was),
            extra={"job_id": overdue.job_id},
        )

    async def _logged(
        self, node: str, work: Callable[..., Awaitable[None]], *arguments: Any
    ) -> None:
        try:
            await work(*arguments)
        except ConnectionError as error:
            self.outages.failed(node)
            at = f" at {node}" if node else ""
            logger.warning("expired leases%s cannot be looked for: %s", at, error)


def _start(
    tasks: dict[str, asyncio.Task[None]],
    node: str,
    work: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Start the task of ``node`` if its last one is done; raises the error of that one."""
    if (former := tasks.get(node)) is not None:
        if not former.done():
            return
        former.result()
    tasks[node] = asyncio.create_task(work(), name="reap-node")


async def _log_errors(job_id: str, work: Awaitable[None]) -> None:
    """Await ``work``, and log its error unless it is the store's: it concerns one job alone."""
    try:
        await work
    except ConnectionError:
        raise
    except Exception:
        logger.exception("job %s was due and cannot be requeued", job_id)
