"""Reads logs and records: reads that many readers request at once share a round trip.

Thousands of readers may read the log at once, for instance after a reconnect. Their reads share a
connection with the live events, and delay these by one batch at the most.

A reader needs the right to read logs alone. Where an ACL forbids it the records, which hold
prompts, a snapshot asks only whether a record exists: the log shows whether the job has begun.
"""

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Final

from redis.exceptions import NoPermissionError

from berlin_schemas import names
from berlin_worker.client.entries import Entry, entries_of
from berlin_worker.client.replay import JobSnapshot
from berlin_worker.client.values import closed
from berlin_worker.storage import stored_values
from berlin_worker.storage.batcher import Batcher
from berlin_worker.storage.connections import Command

_READS_AT_ONCE: Final = 16
"""Reads in one round trip. While 64 readers of long logs keep a process busy, its live events are
70 ms late at p99. With 64 reads in a round trip, even over a separate connection, they are 116 ms
late, and the logs are read no faster."""


class LogReader:
    """Reads pages and snapshots by ``ask``; raises its errors unchanged.

    ``node_of`` returns the node of a key, on a cluster: only reads of one node share a round trip,
    so that a node that does not answer holds up no other.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Command]], Awaitable[list[Any]]],
        node_of: Callable[[str], str] = lambda _key: "",
    ) -> None:
        self._ask = ask
        self._node_of = node_of
        self._hidden = False
        self._queues: dict[str, Batcher[Sequence[Command], list[Any]]] = {}
        self._closed = False

    async def page(self, job_id: str, cursor: int, at_most: int) -> list[Entry]:
        """Return at most ``at_most`` entries after ``cursor``."""
        log = names.log_key(job_id)
        [found] = await self._reads(log, [("XRANGE", log, f"({cursor}-0", "+", "COUNT", at_most)])
        return entries_of(found)

    async def snapshot(self, job_id: str) -> JobSnapshot:
        """Return the record's status and ``seq``, and then the last entry of the log."""
        state = names.state_key(job_id)
        last = ("XREVRANGE", names.log_key(job_id), "+", "-", "COUNT", 1)
        if not self._hidden:
            try:
                (status, seq), found = await self._reads(
                    state, [("HMGET", state, "status", "seq"), last]
                )
            except NoPermissionError:
                self._hidden = True
            else:
                return _snapshot(stored_values.text(status), stored_values.whole(seq) or 0, found)
        there, found = await self._reads(state, [("HEXISTS", state, "status"), last])
        return _snapshot("queued" if there else None, 0, found)

    async def aclose(self) -> None:
        """Stop; readers that still wait get a ``ClientError``."""
        self._closed = True
        for queue in self._queues.values():
            await queue.aclose()

    async def _reads(self, key: str, commands: Sequence[Command]) -> list[Any]:
        if self._closed:
            raise closed()
        node = self._node_of(key)
        if node not in self._queues:
            self._queues[node] = Batcher(self._read, at_most=_READS_AT_ONCE, closed=closed)
        return await self._queues[node].ask(commands)

    async def _read(self, batch: list[Sequence[Command]]) -> list[list[Any] | Exception]:
        replies = iter(await self._ask([command for commands in batch for command in commands]))
        # A key of another type fails its own reader alone.
        return [_outcome(list(islice(replies, len(commands)))) for commands in batch]


def _outcome(replies: list[Any]) -> list[Any] | Exception:
    return next((reply for reply in replies if isinstance(reply, Exception)), replies)


def _snapshot(status: str | None, seq: int, found: list[Any]) -> JobSnapshot:
    entries = entries_of(found)
    return JobSnapshot(status=status, seq=seq, last=entries[0] if entries else None)
