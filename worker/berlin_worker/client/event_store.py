"""A client's connections to the event store, each made when it is first needed."""

from collections.abc import Callable
from functools import cached_property

from redis.asyncio import Redis

from berlin_worker.client.enqueue import Enqueuer
from berlin_worker.client.log_reader import LogReader
from berlin_worker.client.submit import Submitter
from berlin_worker.client.subscriptions import SubscriptionManager
from berlin_worker.client.values import CLOSED, Options
from berlin_worker.config.addresses import address
from berlin_worker.errors import ClientError
from berlin_worker.storage import connections
from berlin_worker.storage.databases import database_of


class EventStore:
    """Records, logs and channels of the jobs."""

    def __init__(
        self,
        url: str,
        *,
        enqueuer: Callable[[], Enqueuer],
        options: Options,
        record_ttl_s: int,
    ) -> None:
        self.url = url
        self.where = address(url)
        self._enqueuer = enqueuer
        self._options = options
        self._record_ttl_s = record_ttl_s
        self._closed = False

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
