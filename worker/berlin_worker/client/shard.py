"""A client's connections to one event store, each made when it is first needed."""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from berlin_worker.client.enqueue import Enqueuer
from berlin_worker.client.log_reader import LogReader
from berlin_worker.client.submit import Submitter
from berlin_worker.client.subscriptions import SubscriptionManager
from berlin_worker.client.values import CLOSED, Options
from berlin_worker.config.addresses import address
from berlin_worker.errors import ClientError
from berlin_worker.storage import connections
from berlin_worker.storage.databases import database_of
from berlin_worker.storage.sharding import marks

_CHECK_AGAIN_S: Final = 60.0
_ASK_AGAIN_S: Final = 30.0


class Shard:
    """Records, logs and channels of the jobs that one event store holds.

    ``expected`` are the marks that it may bear, ``home`` is ``REDIS_URL`` if that is
    another server; see :mod:`berlin_worker.storage.sharding.marks`.
    """

    def __init__(
        self,
        url: str,
        *,
        expected: Mapping[str, str | None],
        home: "Shard | None" = None,
        enqueuer: Callable[[], Enqueuer],
        options: Options,
        record_ttl_s: int,
    ) -> None:
        self.url = url
        self.where = address(url)
        self._expected = expected
        self._home = home
        self._checked_until = 0.0
        self._checking = asyncio.Lock()
        self._enqueuer = enqueuer
        self._options = options
        self._record_ttl_s = record_ttl_s
        self._closed = False

    async def check(self) -> None:
        """Raise ``SettingsError`` if the workers have another list of event stores.

        Asked once a minute at the most; a server that is away is asked again later.
        """
        if self._home is not None:
            await self._home.check()
        if time.monotonic() < self._checked_until:
            return
        async with self._checking:
            if time.monotonic() < self._checked_until:
                return
            try:
                for key, mark in self._expected.items():
                    await marks.check(self._value, key, mark, self.where)
            except (RedisError, OSError):
                self._checked_until = time.monotonic() + _ASK_AGAIN_S
            else:
                self._checked_until = time.monotonic() + _CHECK_AGAIN_S

    async def _value(self, key: str) -> Any:
        if "subscriptions" not in vars(self) or not self.subscriptions.usable:
            return await self.redis.get(key)
        # A client that only reads needs no second connection to an event store.
        [value] = await self.subscriptions.ask([("GET", key)])
        if isinstance(value, Exception):
            raise value
        return value

    @cached_property
    def database(self) -> int:
        """The number of the database."""
        return database_of(self.redis)

    @cached_property
    def redis(self) -> Redis:
        """For commands. Raises ``ClientError`` once the client is closed."""
        self._stay_closed()
        return connections.commands(self.url)

    @cached_property
    def subscriptions(self) -> SubscriptionManager:
        """One connection for all jobs that are followed here."""
        self._stay_closed()
        return SubscriptionManager(
            connections.readers(self.url),
            lambda commands: connections.ask(self.redis, commands),
            buffer_bytes=self._options.buffer_bytes,
            reread_after_s=self._options.reread_after_s,
        )

    @cached_property
    def log_reader(self) -> LogReader:
        """Reads logs and records."""
        return LogReader(self.subscriptions.ask)

    @cached_property
    def submitter(self) -> Submitter:
        """Accepts jobs."""
        return Submitter(
            self.redis,
            self._enqueuer(),
            address=self.where,
            record_ttl_s=self._record_ttl_s,
            timeout_s=self._options.submit_timeout_s,
        )

    async def aclose(self) -> None:
        """Close what was opened, for good."""
        self._closed = True
        opened = vars(self)
        for part in ("log_reader", "subscriptions", "submitter", "redis"):
            if part in opened:
                await opened.pop(part).aclose()

    def _stay_closed(self) -> None:
        if self._closed:
            raise ClientError(CLOSED)
