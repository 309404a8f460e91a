"""The Redis connections of a worker: idle ones are not trusted, lost ones show within seconds."""

import asyncio

import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from berlin_worker.storage.connections import keepalive


class _FreshPool(redis.asyncio.BlockingConnectionPool):
    """Hands out no connection that has lain idle: to find it half open would take a timeout."""

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Called by redis-py for each connection that it hands out."""
        now = asyncio.get_running_loop().time()
        if connection.is_connected and now > connection.next_health_check:
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)


def connect(url: str) -> redis.asyncio.Redis:
    """A Redis of events, log, token and limits; a lost connection shows within seconds."""
    pool = _FreshPool.from_url(
        url,
        max_connections=32,
        timeout=None,
        socket_timeout=5.0,
        socket_connect_timeout=5.0,
        **keepalive(url),
        health_check_interval=3,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
    )
    return redis.asyncio.Redis.from_pool(pool)
