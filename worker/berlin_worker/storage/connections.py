"""Clients and connections of Redis: every wait is bounded, and idle connections are not trusted.

Two kinds of clients differ in retries:

- :func:`commands`, for clients of other services: no retry. redis-py's retry would send a command
  whose reply was lost again without notice, so the caller decides.
- :func:`connect`, for workers: short retries, since each command of a worker may run twice.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff

from berlin_worker.config import urls
from berlin_worker.config.broker_url import tls_options
from berlin_worker.config.redis_url import RedisURL
from berlin_worker.storage.blocking_cluster import open_blocking_cluster
from berlin_worker.storage.closed_transport import reporting_closed
from berlin_worker.storage.cluster import open_cluster
from berlin_worker.storage.primary_pool import BlockingPrimaryPool, PrimaryPool
from berlin_worker.storage.sentinel import watch_of

TIMEOUT_S: Final = 5.0
_IDLE_S: Final = 3
"""A worker's connection that was idle for longer may be half open: finding out takes a timeout."""
_CONNECTIONS: Final = 8
_WORKER_CONNECTIONS: Final = 32
_POOL_TIMEOUT_S: Final = 30.0

Command = tuple[Any, ...]
"""Name and arguments of a Redis command: ``str``, ``bytes`` or ``int``."""


class _ReaderPool(PrimaryPool):
    """A pool whose connections report a closed transport."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.connection_class = reporting_closed(self.connection_class)


class _Pool(PrimaryPool, BlockingConnectionPool):
    """A pool with a limit whose connections report a closed transport."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.connection_class = reporting_closed(self.connection_class)


class _ClosablePool(_Pool):
    """A pool whose close waits for the callers: a connection in use is closed on its release.

    redis-py's pool would close it during the use, with an arbitrary error for the caller, and
    keep a connection that is being made.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._closed = False

    async def release(self, connection: AbstractConnection) -> None:
        await super().release(connection)
        if self._closed:
            await connection.disconnect(nowait=True)

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: ARG002  # redis-py's signature
        self._closed = True
        await super().disconnect(inuse_connections=False)


class _FreshPool(_Pool):
    """A pool that replaces stale connections."""

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Hook of redis-py, for each connection that the pool hands out."""
        if is_stale(connection):
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)


def commands(url: str) -> Redis:
    """Return a client for commands of a service; its few connections serve all callers."""
    return _client(url, _ClosablePool, _CONNECTIONS, {"timeout": _POOL_TIMEOUT_S}, {})


def connect(url: str) -> Redis:
    """Return a client for a worker; a lost connection shows within seconds."""
    retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), 3)
    options = {"retry": retry, "health_check_interval": _IDLE_S}
    return _client(url, _FreshPool, _WORKER_CONNECTIONS, {"timeout": None}, options)


def blocking(url: str, *, timeout_s: float, **options: Any) -> redis.Redis:
    """Return a client without an event loop, and without retries.

    Raises redis-py's errors for a cluster that cannot be reached.
    """
    parsed = urls.parse_redis(url, "REDIS_URL")
    options = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": redis.retry.Retry(NoBackoff(), 0),
        **options,
    }
    if parsed.topology == "cluster":
        # The client of a cluster has the commands of a client of one server.
        return cast("redis.Redis", open_blocking_cluster(parsed, options | _of_nodes(parsed)))
    if parsed.topology == "single":
        return redis.Redis.from_url(parsed.url, **options)
    found: dict[str, Any] = {**redis.connection.parse_url(parsed.at(""))}  # type: ignore[no-untyped-call]  # redis-py
    return redis.Redis.from_pool(BlockingPrimaryPool(watch_of(parsed), **options, **found))


def readers(url: str) -> Callable[[], AbstractConnection]:
    """Return a factory of connections for readers, which have no timeout between messages.

    Raises ``ValueError`` or ``TypeError`` for a URL of which no connection can be made.
    """
    pool = _pool(_ReaderPool, urls.parse_redis(url, "REDIS_URL"), socket_timeout=None)
    make: Callable[[], AbstractConnection] = pool.make_connection
    make()
    return make


def node_readers(url: str, node: str) -> Callable[[], AbstractConnection]:
    """Return :func:`readers` of one node, ``host:port``, of the cluster at ``url``."""
    return readers(urls.parse_redis(url, "REDIS_URL").at(node))


def is_stale(connection: Any) -> bool:
    """Return whether a worker's ``connection`` was idle for too long to be used again."""
    # redis-py sets next_health_check with each reply that it reads.
    return bool(
        connection.is_connected
        and connection.health_check_interval
        and asyncio.get_running_loop().time() > connection.next_health_check
    )


async def ask(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """Return the replies to ``commands``, sent together; an error reply stands in its place."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.response_callbacks = {}
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))


def _client(
    url: str,
    pool: type[PrimaryPool],
    connections: int,
    pool_options: dict[str, Any],
    options: dict[str, Any],
) -> Redis:
    parsed = urls.parse_redis(url, "REDIS_URL")
    options = {"max_connections": connections, "socket_timeout": TIMEOUT_S, **options}
    if parsed.topology == "cluster":
        common = _common(parsed) | options | _of_nodes(parsed)
        # The client of a cluster has the commands of a client of one server.
        return cast("Redis", open_cluster(parsed, common))
    return Redis.from_pool(_pool(pool, parsed, **pool_options, **options))


def _pool(kind: type[PrimaryPool], url: RedisURL, **options: Any) -> PrimaryPool:
    """Return a pool of connections to a server, or to the primary of Sentinels."""
    single = url.topology == "single"
    found: dict[str, Any] = {**parse_url(url.url if single else url.at(""))}
    watch = None if single else watch_of(url)
    return kind(watch=watch, **_common(url) | options | found)


def _of_nodes(url: RedisURL) -> dict[str, Any]:
    """Return the options that each connection to a node of a cluster has."""
    user, password = url.login
    given = {"username": user, "password": password, "client_name": url.client_name}
    tls = {"ssl": True, **tls_options(url)} if url.uses_tls else {}
    return {name: value for name, value in given.items() if value} | tls


def _common(url: RedisURL) -> dict[str, Any]:
    # A Unix socket needs no keepalive, and has none.
    keepalive = {} if url.scheme == "unix" else {"socket_keepalive": True}
    return {
        "socket_connect_timeout": TIMEOUT_S,
        **keepalive,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
        # A connection that needs RESP3 requests it (berlin_worker.client.resp3).
        "protocol": 2,
    }
