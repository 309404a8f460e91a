"""The history of a chaos run: accepted jobs, their live readers, and the check of the result."""

import asyncio
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Self

import redis

from berlin_schemas import encode, names
from berlin_worker.client import AsyncClient, CursorExpired
from tests.support.checker import TERMINAL, Accepted, Figures, Log, figures_of
from tests.support.waiting import stopped
from tests.support.workers import wait_until

if TYPE_CHECKING:
    from concurrent.futures import Future

READER = "reader"
"""Name of the connections of live readers, in CLIENT LIST."""
_AT_ONCE = 500


class History:
    """Accepted jobs, and what Redis and live readers have of them at the end.

    ``client`` reads records and logs: its connection must be one that no fault touches. ``broker``
    has the queue, by default on the same server; a queue on RabbitMQ is not checked. Live readers
    connect to ``reader_url``, which leads through a proxy if the fault is for them. With ``reread``
    a reader that gets ``CursorExpired`` reads again from the start, and is counted. Close the
    history, or use it as a context manager.
    """

    def __init__(
        self,
        client: redis.Redis,
        reader_url: str,
        *,
        reread: bool = False,
        broker_url: str | None = None,
        broker: redis.Redis | None = None,
    ) -> None:
        self._redis = client
        self._broker = broker or client
        self._jobs: dict[str, Accepted] = {}
        self._over: set[str] = set()
        self._faults: list[float] = []
        named = f"{reader_url}{'&' if '?' in reader_url else '?'}client_name={READER}"
        self._readers = _Readers(named, broker_url or reader_url, reread=reread)

    def accept(
        self,
        job_id: str,
        text: str | None,
        *,
        on_interrupt: str = "restart",
        how: Literal["client", "bare"] = "bare",
        endings: Iterable[str] = (),
        follow: bool = False,
    ) -> None:
        """Record a job once its producer knows that it is accepted; see ``Accepted``."""
        self._jobs[job_id] = Accepted(job_id, text, on_interrupt, how, frozenset(endings))
        if follow:
            self._readers.follow(job_id)

    def fault(self) -> None:
        """Record a fault that begins now: recovery is measured from this moment."""
        self._faults.append(time.time())

    @property
    def job_ids(self) -> list[str]:
        """The jobs that were accepted, in order."""
        return list(self._jobs)

    @property
    def unfinished(self) -> list[str]:
        """The jobs that have no end yet."""
        left = [job_id for job_id in self.job_ids if job_id not in self._over]
        for start in range(0, len(left), _AT_ONCE):
            part = left[start : start + _AT_ONCE]
            with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in part:
                    pipeline.hget(f"job:{{{job_id}}}:state", "status")
                for job_id, status in zip(part, pipeline.execute(), strict=True):
                    if status is not None and status.decode() in TERMINAL:
                        self._over.add(job_id)
        return [job_id for job_id in left if job_id not in self._over]

    def log(self, job_id: str) -> Log:
        """Return the log of a job."""
        return self._logs([job_id])[job_id]

    def wait(self, timeout_s: float = 120.0) -> bool:
        """Return whether all jobs end in time, and their messages and index entries are gone."""
        give_up = time.monotonic() + timeout_s
        while (
            self.unfinished
            or self._broker.exists("prompts", "unacked:prompts")
            or self._redis.exists(*names.DUE_KEYS)
        ):
            if time.monotonic() > give_up:
                return False
            time.sleep(0.1)
        return True

    def check(self, timeout_s: float = 120.0) -> Figures:
        """Wait for all jobs to end, and then check logs, readers and keys.

        Problems raise no error. They are in the figures, which the ``report`` fixture writes down
        before it fails the test.
        """
        self.wait(timeout_s)
        followed = self._readers.heard(30.0)
        return figures_of(
            list(self._jobs.values()),
            self._logs(self.job_ids),
            {job_id: seen for job_id, seen in followed.items() if job_id in self._jobs},
            self._ttls(),
            self._faults,
        )

    @property
    def expired(self) -> int:
        """How often a reader got ``CursorExpired``, and read its job again from the start."""
        return self._readers.expired

    def following(self, job_id: str) -> None:
        """Return when the live reader of a job has seen an event."""
        wait_until(lambda: self._readers.seen(job_id), f"a reader of {job_id}")

    def close(self) -> None:
        """End the readers."""
        self._readers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _logs(self, job_ids: list[str]) -> dict[str, Log]:
        logs: dict[str, Log] = {}
        for start in range(0, len(job_ids), _AT_ONCE):
            part = job_ids[start : start + _AT_ONCE]
            with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in part:
                    pipeline.xrange(f"job:{{{job_id}}}:log")
                for job_id, entries in zip(part, pipeline.execute(), strict=True):
                    logs[job_id] = [(i.decode(), fields[b"event"]) for i, fields in entries]
        return logs

    def _ttls(self) -> dict[str, int]:
        keys = list(self._redis.scan_iter(count=1000))
        with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.ttl(key)
            # -2: the key has expired since the scan, so it had a TTL.
            ttls = zip(keys, pipeline.execute(), strict=True)
            return {key.decode(): ttl for key, ttl in ttls if ttl != -2}


class _Readers:
    """Live readers of the client library, on one event loop in a thread."""

    def __init__(self, url: str, broker_url: str | None, *, reread: bool) -> None:
        self._url = url
        self._broker_url = broker_url
        self._reread = reread
        self.expired = 0
        self._seen: dict[str, list[bytes]] = {}
        self._reading: dict[str, Future[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._client: AsyncClient | None = None

    def follow(self, job_id: str) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self._reading[job_id] = asyncio.run_coroutine_threadsafe(self._read(job_id), self._loop)

    def seen(self, job_id: str) -> int:
        return len(self._seen.get(job_id, ()))

    def heard(self, timeout_s: float) -> dict[str, list[bytes]]:
        """Wait for the readers to end, or for the timeout; return the events that each has seen."""
        give_up = time.monotonic() + timeout_s
        for reading in self._reading.values():
            try:
                reading.result(max(0.0, give_up - time.monotonic()))
            except TimeoutError:
                break
        return {job_id: list(self._seen.get(job_id, ())) for job_id in self._reading}

    def close(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def _read(self, job_id: str) -> None:
        if self._client is None:
            self._client = AsyncClient(self._url, self._broker_url)
        seen = self._seen.setdefault(job_id, [])
        while True:
            try:
                async with self._client.stream(job_id, wait_for_start_s=600) as events:
                    async for event in events:
                        seen.append(encode(event))
            except CursorExpired:
                if not self._reread:
                    raise
                self.expired += 1
                seen.clear()
            else:
                return

    async def _close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*map(stopped, tasks))
        if self._client is not None:
            await self._client.aclose()
