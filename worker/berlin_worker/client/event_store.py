"""A client's connections to the event store, each made when it is first needed."""

import functools
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

from redis.asyncio import Redis

from berlin_schemas import names
from berlin_worker.client.cluster_subscriptions import ClusterSubscriptions
from berlin_worker.client.enqueue import Enqueuer
from berlin_worker.client.log_reader import LogReader
from berlin_worker.client.record_commands import NodeCommands, RecordCommands, ServerCommands
from berlin_worker.client.submit import Submitter
from berlin_worker.client.subscriptions import SubscriptionManager
from berlin_worker.client.values import CLOSED, Options
from berlin_worker.config import urls
from berlin_worker.config.addresses import address
from berlin_worker.errors import ClientError
from berlin_worker.storage import connections
from berlin_worker.storage.cluster import AsyncCluster
from berlin_worker.storage.cluster_scripts import ClusterCommands
from berlin_worker.storage.connections import Command
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
        self.is_cluster = urls.is_cluster(url)
        self._log_commands: ClusterCommands | None = None

    @cached_property
    def database(self) -> int:
        """The number of the database."""
        return database_of(self.redis)

    @cached_property
    def redis(self) -> Redis:
        """For commands. Raises ``ClientError`` once the client is closed."""
        self._stay_closed()
        return connections.commands(self.url)

    def channel(self, job_id: str) -> str:
        """Return the channel of a job's events."""
        return (names.sharded_channel if self.is_cluster else names.channel)(job_id)

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to ``commands``, each of one slot, sent together.

        An error stands in the place of a missing one. Raises redis-py's errors if the only server
        cannot be reached.
        """
        return await self._records.read(commands)

    @cached_property
    def _records(self) -> RecordCommands:
        if self._commands is not None:
            return NodeCommands(self._commands)
        return ServerCommands(self.redis)

    @cached_property
    def _commands(self) -> ClusterCommands | None:
        client = self.redis
        return ClusterCommands(client) if isinstance(client, AsyncCluster) else None

    @cached_property
    def subscriptions(self) -> SubscriptionManager | ClusterSubscriptions:
        """One connection for all jobs that are followed here; on a cluster one a node."""
        self._stay_closed()
        client = self.redis if self.is_cluster else None
        if isinstance(client, AsyncCluster):
            return ClusterSubscriptions(
                client,
                functools.partial(connections.node_readers, self.url),
                buffer_bytes=self._options.buffer_bytes,
                reread_after_s=self._options.reread_after_s,
            )
        return SubscriptionManager(
            connections.readers(self.url),
            lambda commands: connections.ask(self.redis, commands),
            buffer_bytes=self._options.buffer_bytes,
            reread_after_s=self._options.reread_after_s,
        )

    @cached_property
    def log_reader(self) -> LogReader:
        """Reads logs and records."""
        subscriptions = self.subscriptions
        if isinstance(subscriptions, ClusterSubscriptions):
            # Connections of their own: a read may go to another node than its channel.
            self._log_commands = ClusterCommands(cast("AsyncCluster", self.redis))
            return LogReader(self._log_commands.ask, self._log_commands.node_of)
        return LogReader(subscriptions.ask)

    @cached_property
    def submitter(self) -> Submitter:
        """Accepts jobs."""
        return Submitter(
            self._records,
            self._enqueuer(),
            one_slot=self.is_cluster,
            address=self.where,
            record_ttl_s=self._record_ttl_s,
            timeout_s=self._options.submit_timeout_s,
        )

    async def aclose(self) -> None:
        """Close all connections that were opened, for good."""
        self._closed = True
        opened = vars(self)
        parts = (
            *("log_reader", "_log_commands", "subscriptions", "submitter", "_records"),
            *("_commands", "redis"),
        )
        for part in parts:
            if (found := opened.pop(part, None)) is not None:
                await found.aclose()

    def _stay_closed(self) -> None:
        if self._closed:
            raise ClientError(CLOSED)
