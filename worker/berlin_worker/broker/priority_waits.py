"""Waits for the further lists of a queue: kombu has one list for each step of priority.

A channel waits for one list (BLMOVE of its last message onto its own end); the script behind that
wait reads all lists. This module waits for each further list by BLMOVE on a connection of its own.
When such a wait finds a message, it ends the wait of the channel, whose script then runs at once.
Nothing is reserved here.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any, Final

from celery.utils.log import get_logger
from kombu.asynchronous import get_event_loop
from redis.exceptions import RedisError, ResponseError

from berlin_worker.storage.redis_errors import is_wrong_type

logger = get_logger(__name__)

_RETRY_S: Final = 10.0
"""After a lost wait, no new one begins for this time. Meanwhile a message is found when the
channel's own wait ends, within a second."""
_REFUSED_S: Final = 300.0
"""The pause after a refusal: the Redis user lacks a right (deploy/redis/users.acl), or the server
is full."""
_LATE: Final = "messages of other priorities are found a second late: %s"


class WaitEnder:
    """Ends the wait of a channel's connection from another connection, by CLIENT UNBLOCK."""

    def __init__(self) -> None:
        self._socket: Any = None
        """The socket of the connection whose ID is ``_id``."""
        self._id: int | None = None

    def identify(self, connection: Any) -> None:
        """Ask the server for the ID of the connection that is about to wait, once per socket.

        If the server refuses, the wait cannot be ended early. Raises redis-py's errors.
        """
        if self._socket is connection._sock:  # noqa: SLF001  # redis-py has no public name for it
            return
        connection.send_command("CLIENT", "ID")
        try:
            self._id = int(connection.read_response())
        except ResponseError:
            self._id = None
        self._socket = connection._sock  # noqa: SLF001  # redis-py has no public name for it

    def end(self, acquire: Callable[[], AbstractContextManager[Any]]) -> None:
        """End the wait; ``acquire`` returns a context manager that yields another client."""
        if self._id is None:
            return
        try:
            with acquire() as client:
                client.client_unblock(self._id)
        except (RedisError, OSError) as error:
            self._id = None
            logger.warning(_LATE, error)


class PriorityWaits:
    """The waits of one channel, in kombu's event loop; without an event loop there are none.

    ``connect`` makes a connection; ``wake`` is called when a list has a message.
    """

    def __init__(self, connect: Callable[[], Any], wake: Callable[[], None]) -> None:
        self._connect = connect
        self._wake = wake
        self._connections: dict[str, Any] = {}
        self._waiting: dict[str, int] = {}
        self._retry_at = 0.0

    def start(self, keys: Iterable[str]) -> None:
        """Start to wait for each of the lists that has no wait."""
        hub = get_event_loop()
        if hub is None or monotonic() < self._retry_at:
            return
        for key in keys:
            if key not in self._waiting:
                try:
                    self._send(hub, key)
                except (RedisError, OSError) as error:
                    self._failed(key, error)
                    return

    def close(self) -> None:
        """End all waits."""
        for key in tuple(self._connections):
            self._drop(key)

    def _send(self, hub: Any, key: str) -> None:
        connection = self._connections.get(key)
        if connection is None:
            connection = self._connections[key] = self._connect()
        connection.connect()
        command = connection.pack_command("BLMOVE", key, key, "RIGHT", "RIGHT", 0)
        connection.send_packed_command(command, check_health=False)
        # A wait has no timeout: if the network swallows it, messages are found a second late.
        self._waiting[key] = connection._sock.fileno()  # noqa: SLF001  # redis-py has no public name for it
        hub.add_reader(self._waiting[key], self._read, key)

    def _read(self, key: str) -> None:
        self._stop_listening(key)
        try:
            message = self._connections[key].read_response()
        except (RedisError, OSError) as error:
            self._failed(key, error)
        else:
            if message is not None:
                self._wake()

    def _failed(self, key: str, error: Exception) -> None:
        """Drop the wait and try again later; the channel itself notices a server that is gone."""
        # A key of a wrong type is deleted within a second, see requeue_expired.lua.
        refused = isinstance(error, ResponseError) and not is_wrong_type(error)
        level = logger.warning if refused else logger.debug
        level(_LATE, error)
        self._retry_at = monotonic() + (_REFUSED_S if refused else _RETRY_S)
        self._drop(key)

    def _drop(self, key: str) -> None:
        self._stop_listening(key)
        connection = self._connections.pop(key, None)
        if connection is not None:
            connection.disconnect()

    def _stop_listening(self, key: str) -> None:
        fd = self._waiting.pop(key, None)
        hub: Any = get_event_loop()
        if fd is not None and hub is not None:
            hub.remove_reader(fd)
