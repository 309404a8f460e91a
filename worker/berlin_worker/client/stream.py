"""One reader of one job: the pure core of :mod:`berlin_worker.client.replay`, driven by asyncio."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self, TypeVar

from redis.exceptions import RedisError

from berlin_schemas import Event, names
from berlin_worker.client.replay import Entry, Need, Replay
from berlin_worker.client.resp3 import Lost
from berlin_worker.client.shard import Shard
from berlin_worker.client.subscription import Mailbox, Notice
from berlin_worker.client.values import ANOTHER_LOOP, Options
from berlin_worker.errors import ClientError, Unavailable
from berlin_worker.storage.redis_errors import describe, is_temporary

T = TypeVar("T")

_BACKOFF_S: Final = (0.05, 2.0)


class Stream:
    """The events of a job, each once and in order, up to its terminal one.

    An asynchronous iterator; a context manager for those who leave early and want to be
    sure when it is closed (a ``break`` closes it as well, once it is out of reach). Waiting
    for the next event may be cancelled, by a timeout for instance, and taken up again.

    Raises :class:`~berlin_worker.errors.CursorExpired` where the log cannot give what is asked for,
    :class:`~berlin_worker.errors.UnsupportedVersion` if an event has another contract version,
    and :class:`~berlin_worker.errors.Unavailable` where Redis has not answered for
    ``Options.give_up_after_s``. Without an error the last event is the terminal one.
    """

    def __init__(
        self,
        job_id: str,
        after: int,
        *,
        shard: Shard,
        options: Options,
        submit: Callable[[], Awaitable[object]] | None = None,
        raw: bool = False,
    ) -> None:
        self._mailbox: Mailbox | None = None
        self._replay = Replay(names.check_job_id(job_id), after, database=shard.database)
        self._replay.raw = [] if raw else None
        self._shard = shard
        self._hub = shard.hub
        self._logs = shard.logs
        self._options = options
        self._submit = submit
        self._started_s: float | None = None
        self._progress_s = 0.0
        self._ready: deque[Event] = deque()
        self._closed = False

    @property
    def job_id(self) -> str:
        """The job that is read."""
        return self._replay.job_id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not self._ready:
            self._ready.extend(await self.batch())
        return self._ready.popleft()

    async def batch(self) -> list[Event]:
        """All events that are there, at least one; raises ``StopAsyncIteration`` at the end."""
        if self._ready:
            ready, self._ready = list(self._ready), deque()
            return ready
        if not self._hub.here:
            raise ClientError(ANOTHER_LOOP)
        try:
            while self._replay.need is not Need.NOTHING and not self._closed:
                if events := await self._step():
                    return events
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopAsyncIteration

    async def raw_batch(self) -> list[tuple[Event, bytes]]:
        """As :meth:`batch`, each event with its own bytes; for a stream that was made ``raw``."""
        events = await self.batch()
        data, self._replay.raw = self._replay.raw or [], []
        return list(zip(events, data, strict=True))

    async def start(self) -> None:
        """Subscribe, and submit the job of ``submit_and_stream``; the first event does it too."""
        if not self._hub.here:
            raise ClientError(ANOTHER_LOOP)
        if self._started_s is None:
            if self._mailbox is None:
                self._mailbox = self._hub.open(names.channel(self.job_id))
            await self._acknowledged(self._mailbox)
            await self._shard.check()
            if self._submit is not None:
                await self._submit()
            self._started_s = self._progress_s = asyncio.get_running_loop().time()

    def close(self) -> None:
        """Unsubscribe. The iterator is at its end then."""
        self._closed = True
        self._ready.clear()
        if self._mailbox is not None:
            (self._hub.close if self._hub.here else self._hub.discard)(self._mailbox)
            self._mailbox = None

    async def aclose(self) -> None:
        """:meth:`close`, by the name that asynchronous generators give it."""
        self.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._mailbox is not None:
            self._hub.discard(self._mailbox)

    async def _step(self) -> list[Event]:
        """Do what the core needs next; returns what is to be delivered."""
        await self.start()
        replay, job_id = self._replay, self.job_id
        if replay.need is Need.PAGE:
            return replay.page(await self._patiently(self._page))
        if replay.need is Need.GLANCE:
            seen = await self._patiently(lambda: self._logs.glance(job_id))
            replay.glance(seen, may_wait=self._may_wait())
            return []
        return await self._listen()

    async def _page(self) -> list[Entry]:
        replay = self._replay
        try:
            return await self._logs.page(replay.job_id, replay.cursor, replay.page_size)
        except Lost:
            replay.page_lost()
            raise

    async def _listen(self) -> list[Event]:
        assert self._mailbox is not None  # for mypy: start() has opened it
        taken = await self._mailbox.take()
        if taken is Notice.MISSED:
            self._replay.missed()
        elif taken is Notice.QUIET:
            self._replay.quiet()
        else:
            return self._heard(taken)
        return []

    def _heard(self, messages: list[bytes]) -> list[Event]:
        """Take messages; those of other fleets alone are silence, however many come."""
        now = asyncio.get_running_loop().time()
        if events := self._replay.messages(messages):
            self._progress_s = now
        elif now - self._progress_s > self._options.reread_after_s:
            self._progress_s = now
            self._replay.quiet()
        return events

    def _may_wait(self) -> bool:
        assert self._started_s is not None  # for mypy: start() has set it
        waited_s = asyncio.get_running_loop().time() - self._started_s
        return waited_s < self._options.wait_for_start_s

    async def _acknowledged(self, mailbox: Mailbox) -> None:
        # What is not submitted yet need not be waited for as long as what is under way.
        options = self._options
        patience_s = options.submit_timeout_s if self._submit else options.give_up_after_s
        try:
            async with asyncio.timeout(patience_s):
                await self._hub.acknowledged(mailbox)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise self._unavailable(error) from error

    async def _patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read, and ride out a Redis that is away or starts up."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + self._options.give_up_after_s
        pause_s, longest_s = _BACKOFF_S
        while True:
            try:
                return await read()
            except (RedisError, OSError) as error:
                if not is_temporary(error) or clock() + pause_s > give_up:
                    raise self._unavailable(error) from error
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
            pause_s = min(pause_s * 2, longest_s)

    def _unavailable(self, error: BaseException) -> Unavailable:
        return Unavailable(
            f"{describe(self._shard.where, error)}: events of job {self.job_id} after seq "
            f"{self._replay.cursor} could not be read",
            job_id=self.job_id,
        )
