"""Reading logs and records: what many readers want at the same moment goes out as one pipeline.

Thousands of readers that come back to the log at once (after a reconnect, say) would
otherwise need a connection each.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from schemas import names
from worker.client.hub import CLOSED
from worker.client.replay import PAGE_SIZE, Entry, Glance
from worker.errors import ClientError

_READS_AT_ONCE: Final = 64
"""Pages asked for in one round trip: some megabytes of reply at the most, as a rule."""


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False, slots=True)
class _Read:
    job_id: str
    cursor: int | None
    """The page after this ``seq``; ``None`` for a glance."""
    answer: asyncio.Future[Any] = field(default_factory=_future)

    def ask(self, pipeline: Pipeline) -> int:
        """Put the commands into ``pipeline``; returns how many."""
        log = names.log_key(self.job_id)
        if self.cursor is not None:
            pipeline.xrange(log, min=f"({self.cursor}-0", max="+", count=PAGE_SIZE)
            return 1
        pipeline.hmget(names.state_key(self.job_id), ["status", "seq"])
        pipeline.xrevrange(log, count=1)
        return 2


class Logs:
    """Reads pages and glances. Redis' errors come out as they are."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: deque[_Read] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def page(self, job_id: str, cursor: int) -> list[Entry]:
        """At most ``PAGE_SIZE`` entries after ``cursor``."""
        [entries] = await self._read(_Read(job_id, cursor))
        return list(entries)

    async def glance(self, job_id: str) -> Glance:
        """The record's status and ``seq``, then the last entry of the log."""
        (status, seq), entries = await self._read(_Read(job_id, None))
        return Glance(
            status=status.decode() if status is not None else None,
            seq=int(seq or 0),
            last=entries[0] if entries else None,
        )

    async def aclose(self) -> None:
        """Stop; readers that still wait get a ``ClientError``."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail(self._waiting, ClientError(CLOSED))

    async def _read(self, read: _Read) -> list[Any]:
        if self._closed:
            raise ClientError(CLOSED)
        self._waiting.append(read)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._flush(), name="berlin-client-logs")
        replies: list[Any] = await read.answer
        return replies

    async def _flush(self) -> None:
        # One at a time: what gathers during a round trip is the next one's batch.
        while self._waiting:
            size = min(len(self._waiting), _READS_AT_ONCE)
            batch = [self._waiting.popleft() for _ in range(size)]
            batch = [read for read in batch if not read.answer.done()]
            try:
                await self._ask(batch)
            except asyncio.CancelledError:
                self._fail(batch, ClientError(CLOSED))
                raise
            except Exception as error:  # noqa: BLE001  # goes to those who asked, whatever it is
                self._fail(batch, error)

    async def _ask(self, batch: list[_Read]) -> None:
        if not batch:
            return
        async with self._redis.pipeline(transaction=False) as pipeline:
            counts = [read.ask(pipeline) for read in batch]
            replies = iter(await pipeline.execute())
        for read, count in zip(batch, counts, strict=True):
            answer = [next(replies) for _ in range(count)]
            if not read.answer.done():
                read.answer.set_result(answer)

    @staticmethod
    def _fail(reads: Iterable[_Read], error: Exception) -> None:
        for read in reads:
            if not read.answer.done():
                read.answer.set_exception(error)
