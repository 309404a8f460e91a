"""One reader of one job in Redis: drives the pure core of :mod:`berlin_worker.client.replay`."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from redis.exceptions import RedisError

from berlin_schemas import Event, names
from berlin_worker.client.entries import E, Entry, Parse, parse_message
from berlin_worker.client.event_store import EventStore
from berlin_worker.client.raw_events import RawEvent, parse_raw
from berlin_worker.client.replay import Need, Replay
from berlin_worker.client.resp3 import Lost
from berlin_worker.client.stream import Stream
from berlin_worker.client.subscription import Signal, Subscription
from berlin_worker.client.values import ANOTHER_LOOP, Options
from berlin_worker.errors import ClientError, Unavailable
from berlin_worker.storage.redis_errors import describe, is_temporary

T = TypeVar("T")

_BACKOFF_S: Final = (0.05, 2.0)


class RedisStream(Stream):
    """The events of a job, from its log and its channel."""

    def __init__(
        self,
        job_id: str,
        after: int,
        *,
        store: EventStore,
        options: Options,
        submit: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__()
        self._subscription: Subscription | None = None
        self._replay = Replay(names.check_job_id(job_id), after, database=store.database)
        self._store = store
        self._subscriptions = store.subscriptions
        self._log_reader = store.log_reader
        self._options = options
        self._submit = submit
        self._started_s: float | None = None
        self._progress_s = 0.0
        self._closed = False

    @property
    def job_id(self) -> str:
        return self._replay.job_id

    async def batch(self) -> list[Event]:
        return self._take_ready() if self._ready else await self._next(parse_message)

    async def raw_batch(self) -> list[RawEvent]:
        self._check_raw()
        return await self._next(parse_raw)

    async def _next(self, parse: Parse[E]) -> list[E]:
        if not self._subscriptions.in_own_loop:
            raise ClientError(ANOTHER_LOOP)
        try:
            while self._replay.need is not Need.NOTHING and not self._closed:
                if events := await self._step(parse):
                    return events
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopAsyncIteration

    async def start(self) -> None:
        if not self._subscriptions.in_own_loop:
            raise ClientError(ANOTHER_LOOP)
        if self._started_s is None:
            if self._subscription is None:
                self._subscription = self._subscriptions.open(self._store.channel(self.job_id))
            await self._acknowledged(self._subscription)
            if self._submit is not None:
                await self._submit()
            self._started_s = self._progress_s = asyncio.get_running_loop().time()

    def close(self) -> None:
        self._closed = True
        self._ready.clear()
        if self._subscription is not None:
            if self._subscriptions.in_own_loop:
                self._subscriptions.close(self._subscription)
            else:
                self._subscriptions.discard(self._subscription)
            self._subscription = None

    def __del__(self) -> None:
        if self._subscription is not None:
            self._subscriptions.discard(self._subscription)

    async def _step(self, parse: Parse[E]) -> list[E]:
        """Take the step that the core needs next; return the events to deliver."""
        await self.start()
        replay, job_id = self._replay, self.job_id
        if replay.need is Need.PAGE:
            return replay.page(await self._patiently(self._page), parse)
        if replay.need is Need.SNAPSHOT:
            seen = await self._patiently(lambda: self._log_reader.snapshot(job_id))
            replay.snapshot(seen, may_wait=self._may_wait())
            return []
        return await self._listen(parse)

    async def _page(self) -> list[Entry]:
        replay = self._replay
        try:
            return await self._log_reader.page(replay.job_id, *replay.next_page)
        except Lost:
            replay.page_lost()
            raise

    async def _listen(self, parse: Parse[E]) -> list[E]:
        assert self._subscription is not None  # for mypy: start() has opened it
        taken = await self._subscription.take()
        if taken is Signal.OVERFLOW:
            self._replay.missed()
        elif taken is Signal.IDLE:
            self._replay.idle()
        else:
            return self._take(taken, parse)
        return []

    def _take(self, messages: list[bytes], parse: Parse[E]) -> list[E]:
        """Take messages. Messages of other fleets do not count as a sign of life."""
        now = asyncio.get_running_loop().time()
        if events := self._replay.messages(messages, parse):
            self._progress_s = now
        elif now - self._progress_s > self._options.reread_after_s:
            self._progress_s = now
            self._replay.idle()
        return events

    def _may_wait(self) -> bool:
        assert self._started_s is not None  # for mypy: start() has set it
        waited_s = asyncio.get_running_loop().time() - self._started_s
        return waited_s < self._options.wait_for_start_s

    async def _acknowledged(self, subscription: Subscription) -> None:
        # Before the submission no job is under way, so its own, shorter timeout applies.
        options = self._options
        patience_s = options.submit_timeout_s if self._submit else options.give_up_after_s
        try:
            async with asyncio.timeout(patience_s):
                await self._subscriptions.acknowledged(subscription)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise self._unavailable(error) from error

    async def _patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """Return what ``read`` returns; retry while Redis is away or starts up."""
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
            f"{describe(self._store.where, error)}: events of job {self.job_id} after seq "
            f"{self._replay.cursor} could not be read",
            job_id=self.job_id,
        )
