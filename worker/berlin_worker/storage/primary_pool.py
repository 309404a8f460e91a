"""Pools whose connections lead to the primary that Sentinels watch.

redis-py's managed connections ask for the primary before they connect, and are closed if their
server refuses writes, as a former primary does. These ask :class:`PrimaryWatch`, and are ended by
it.
"""

import asyncio
import contextlib
import socket
import weakref
from typing import Any

import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from berlin_worker.storage.sentinel import Address, PrimaryWatch


class PrimaryConnection(redis.asyncio.sentinel.SentinelManagedConnection):
    """An asyncio connection to the primary."""

    async def connect_to(self, address: Address) -> None:
        """Connect: called by redis-py with the address of the primary."""
        await super().connect_to(address)  # type: ignore[no-untyped-call]  # redis-py
        self._loop = asyncio.get_running_loop()
        self.connection_pool.watch.follow(self)

    def leave(self) -> None:
        """End the connection, because another server is the primary; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._shut_down)

    def _shut_down(self) -> None:
        # Shut the socket down, as the server would: after an abort uvloop raises RuntimeError when
        # the connection is used.
        writer: Any = self._writer
        if writer is not None:
            with contextlib.suppress(OSError):  # it is closed already
                descriptor = writer.get_extra_info("socket").fileno()
                with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as shared:
                    shared.shutdown(socket.SHUT_RDWR)


class SecurePrimaryConnection(PrimaryConnection, redis.asyncio.SSLConnection):
    """An asyncio connection to the primary, with TLS."""


class BlockingPrimaryConnection(redis.sentinel.SentinelManagedConnection):
    """A blocking connection to the primary."""

    def connect_to(self, address: Address) -> None:
        """Connect: called by redis-py with the address of the primary."""
        super().connect_to(address)  # type: ignore[no-untyped-call]  # redis-py
        self.connection_pool.watch.follow(self)

    def leave(self) -> None:
        """End the connection, because another server is the primary; from any thread."""
        open_socket = self._sock  # read once: its own thread may close it meanwhile
        if open_socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                # Not by the method of a TLS socket, which another thread may be reading.
                socket.socket.shutdown(open_socket, socket.SHUT_RDWR)


class SecureBlockingPrimaryConnection(BlockingPrimaryConnection, redis.SSLConnection):
    """A blocking connection to the primary, with TLS."""


class PrimaryPool(redis.asyncio.ConnectionPool):
    """Mixin for pools of asyncio connections: with ``watch`` they lead to the primary."""

    is_master = True
    check_connection = False

    def __init__(self, *, watch: PrimaryWatch | None = None, **options: Any) -> None:
        if watch is not None:
            self.watch = watch
            secure = options.pop("connection_class", None) is redis.asyncio.SSLConnection
            options["connection_class"] = SecurePrimaryConnection if secure else PrimaryConnection
            options["connection_pool"] = weakref.proxy(self)
        super().__init__(**options)

    async def get_master_address(self) -> Address:
        """Return where to connect: hook of redis-py's managed connections."""
        return await self.watch.find()


class BlockingPrimaryPool(redis.ConnectionPool):
    """A pool of blocking connections that lead to the primary."""

    is_master = True
    check_connection = False
    service_name = "primary"

    def __init__(self, watch: PrimaryWatch, **options: Any) -> None:
        self.watch = watch
        kind = options.pop("connection_class", None) or redis.Connection
        if not issubclass(kind, BlockingPrimaryConnection):
            secure = issubclass(kind, redis.SSLConnection)
            kind = SecureBlockingPrimaryConnection if secure else BlockingPrimaryConnection
        super().__init__(kind, connection_pool=weakref.proxy(self), **options)

    def get_master_address(self) -> Address:
        """Return where to connect: hook of redis-py's managed connections."""
        return self.watch.find_blocking()
