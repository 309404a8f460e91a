"""Clients and connections of Redis: every wait is bounded, and idle connections are not trusted.

Two kinds of clients differ in retries:

- :func:`commands`, for clients of other services: no retry. redis-py's retry would send a command
  whose reply was lost again without notice, so the caller decides.
- :func:`connect`, for workers: short retries, since each command of a worker may run twice.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

TIMEOUT_S: Final = 5.0
_IDLE_S: Final = 3
"""A worker's connection that was idle for longer may be half open: finding out takes a timeout."""
_CONNECTIONS: Final = 8
_WORKER_CONNECTIONS: Final = 32
_POOL_TIMEOUT_S: Final = 30.0

Command = tuple[Any, ...]
"""Name and arguments of a Redis command: ``str``, ``bytes`` or ``int``."""


def _reporting_closed(base: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return ``base`` with a write to a closed transport raised as redis-py's ``ConnectionError``.

    uvloop raises ``RuntimeError`` for it. redis-py lets that through, and each caller that handles
    errors of Redis would end by it: a cut during the handshake would end the worker.
    """

    class Connection(base):  # type: ignore[valid-type,misc]  # the URL decides on the base
        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            try:
                await super().send_packed_command(command, check_health)
            except RuntimeError as error:
                await self.disconnect(nowait=True)
                raise RedisConnectionError(f"the connection is closed: {error}") from error

    return Connection


class _ReaderPool(ConnectionPool):
    """A pool whose connections report a closed transport."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.connection_class = _reporting_closed(self.connection_class)


class _Pool(BlockingConnectionPool):
    """A pool with a limit whose connections report a closed transport."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.connection_class = _reporting_closed(self.connection_class)


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
    pool = _ClosablePool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_POOL_TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        **_common(url),
    )
    return Redis.from_pool(pool)


def connect(url: str) -> Redis:
    """Return a client for a worker; a lost connection shows within seconds."""
    retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), 3)
    pool = _FreshPool.from_url(
        url,
        max_connections=_WORKER_CONNECTIONS,
        timeout=None,
        socket_timeout=TIMEOUT_S,
        health_check_interval=_IDLE_S,
        **_common(url) | {"retry": retry},
    )
    return Redis.from_pool(pool)


def readers(url: str) -> Callable[[], AbstractConnection]:
    """Return a factory of connections for readers, which have no timeout between messages.

    Raises ``ValueError`` or ``TypeError`` for a URL of which no connection can be made.
    """
    pool = _ReaderPool.from_url(url, socket_timeout=None, **_common(url))
    make: Callable[[], AbstractConnection] = pool.make_connection
    make()
    return make


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


def keepalive(url: str) -> dict[str, Any]:
    """Return the option that detects half-open connections; a Unix socket needs and has none."""
    return {} if url.startswith("unix:") else {"socket_keepalive": True}


def _common(url: str) -> dict[str, Any]:
    return {
        "socket_connect_timeout": TIMEOUT_S,
        **keepalive(url),
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
        # A connection that needs RESP3 requests it (berlin_worker.client.resp3).
        "protocol": 2,
    }
