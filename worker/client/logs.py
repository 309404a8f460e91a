"""Reading logs and records: what many readers want at the same moment goes out as one pipeline.

Thousands of readers that come back to the log at once (after a reconnect, say) would
otherwise need a connection each.

A reader needs the right to read logs alone. Where an ACL forbids it the records, which hold
prompts, a glance asks only whether there is one: what has begun can be told by its log.
"""

from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import NoPermissionError

from schemas import names
from worker.client.batch import Batcher
from worker.client.replay import PAGE_SIZE, Entry, Glance

_READS_AT_ONCE: Final = 64
"""Pages asked for in one round trip: some megabytes of reply at the most, as a rule."""


@dataclass(frozen=True, slots=True)
class _Read:
    job_id: str
    cursor: int | None
    """The page after this ``seq``; ``None`` for a glance."""
    hidden: bool = False
    """Whether records may not be read."""

    def ask(self, pipeline: Pipeline) -> int:
        """Put the commands into ``pipeline``; returns how many."""
        log = names.log_key(self.job_id)
        if self.cursor is not None:
            pipeline.xrange(log, min=f"({self.cursor}-0", max="+", count=PAGE_SIZE)
            return 1
        state = names.state_key(self.job_id)
        if self.hidden:
            pipeline.hexists(state, "status")
        else:
            pipeline.hmget(state, ["status", "seq"])
        pipeline.xrevrange(log, count=1)
        return 2


class Logs:
    """Reads pages and glances. Redis' errors come out as they are."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._hidden = False
        self._reads: Batcher[_Read, list[Any]] = Batcher(self._ask, at_most=_READS_AT_ONCE)

    async def page(self, job_id: str, cursor: int) -> list[Entry]:
        """At most ``PAGE_SIZE`` entries after ``cursor``."""
        [entries] = await self._reads.ask(_Read(job_id, cursor))
        return list(entries)

    async def glance(self, job_id: str) -> Glance:
        """The record's status and ``seq``, then the last entry of the log."""
        if not self._hidden:
            try:
                return await self._full_glance(job_id)
            except NoPermissionError:
                self._hidden = True
        there, entries = await self._reads.ask(_Read(job_id, None, hidden=True))
        return Glance("queued" if there else None, 0, entries[0] if entries else None)

    async def _full_glance(self, job_id: str) -> Glance:
        (status, seq), entries = await self._reads.ask(_Read(job_id, None))
        return Glance(
            status=status.decode() if status is not None else None,
            seq=int(seq or 0),
            last=entries[0] if entries else None,
        )

    async def aclose(self) -> None:
        """Stop; readers that still wait get a ``ClientError``."""
        await self._reads.aclose()

    async def _ask(self, batch: list[_Read]) -> list[list[Any] | Exception]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            counts = [read.ask(pipeline) for read in batch]
            # A key of another type is the trouble of its own reader alone.
            replies = iter(await pipeline.execute(raise_on_error=False))
        return [_outcome([next(replies) for _ in range(count)]) for count in counts]


def _outcome(replies: list[Any]) -> list[Any] | Exception:
    return next((reply for reply in replies if isinstance(reply, Exception)), replies)
