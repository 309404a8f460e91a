"""Connections whose write to a closed transport is an error of redis-py on each event loop."""

from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError


def reporting_closed(base: type[AbstractConnection]) -> type[AbstractConnection]:
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
