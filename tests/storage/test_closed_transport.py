"""A connection whose transport has closed: an error of redis-py on each event loop."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from berlin_worker.storage import connections

pytestmark = pytest.mark.contract

MAKE: dict[str, Callable[[str], AbstractConnection]] = {
    "command": lambda url: connections.commands(url).connection_pool.make_connection(),
    "worker": lambda url: connections.connect(url).connection_pool.make_connection(),
    "reader": lambda url: connections.readers(url)(),
}


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", MAKE)
def test_write_to_a_closed_transport_is_a_connection_error(
    fake_redis_url: str, run: Callable[[Any], None], kind: str
):
    async def write() -> None:
        connection: Any = MAKE[kind](fake_redis_url)
        await connection.connect()
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(RedisConnectionError):
            await connection.send_command("PING")
        assert not connection.is_connected

    run(write())
