"""Waits for the further lists of a queue: kombu has one for each step of priority.

A channel waits on one list, by moving its last message onto itself, and a script follows that looks
at all lists. Here each further list has a wait of the same kind, on a connection of its own. What
ends such a wait ends the channel's, too, so that its script looks at once. Nothing is taken here.
"""

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final

from celery.utils.log import get_logger
from kombu.asynchronous import get_event_loop
from redis.exceptions import RedisError, ResponseError

logger = get_logger(__name__)

_RETRY_S: Final = 10.0
"""Without these waits a message is found when the channel's own wait ends: there is no hurry."""
_REFUSED_S: Final = 300.0
"""A server that refuses them lacks a right (deploy/redis/users.acl), or is full."""


class PriorityWaits:
    """The waits of one channel, in kombu's event loop; without one there are none.

    ``connect`` makes a connection, ``wake`` is called when a list has a message.
    """

    def __init__(self, connect: Callable[[], Any], wake: Callable[[], None]) -> None:
        self._connect = connect
        self._wake = wake
        self._connections: dict[str, Any] = {}
        self._waiting: dict[str, int] = {}
        self._retry_at = 0.0

    def start(self, keys: Iterable[str]) -> None:
        """Wait on those of the lists that are not waited for."""
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
        """End all of them."""
        for key in tuple(self._connections):
            self._drop(key)

    def _send(self, hub: Any, key: str) -> None:
        connection = self._connections.get(key)
        if connection is None:
            connection = self._connections[key] = self._connect()
        connection.connect()
        command = connection.pack_command("BLMOVE", key, key, "RIGHT", "RIGHT", 0)
        connection.send_packed_command(command, check_health=False)
        # A wait without an end costs nothing; if the network swallows it, see _RETRY_S.
        self._waiting[key] = connection._sock.fileno()  # noqa: SLF001  # redis-py does not show it
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
        """Try again later: the server refuses it, or is gone, which the channel itself notices."""
        refused = isinstance(error, ResponseError)
        level = logger.warning if refused else logger.debug
        level("messages of other priorities are found a second late: %s", error)
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
