"""The messages that this worker holds: kept while it lives, acknowledged even after an outage."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import ceil
from time import monotonic, time
from typing import Any, ClassVar, Final

from celery.utils.log import get_logger
from kombu.asynchronous import get_event_loop
from kombu.transport import redis, virtual
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

logger = get_logger(__name__)

_PARTS: Final = 8
"""In how many parts what is held is renewed, where it is much."""
_AT_LEAST: Final = 32
"""Messages of a part, where there are so many."""


class QoS(redis.QoS):
    """The messages that this worker holds. What was taken by the script is written down already."""

    owed: ClassVar[set[str]] = set()
    """Tags of this process whose acknowledgement no connection has taken yet."""
    restores_from: ClassVar[float] = 0.0
    """When this process may give back what others hold; later after an outage, in which
    nobody could renew: the living have until then to do it."""
    hung: ClassVar[bool] = False
    """This process cannot work: it takes nothing, and keeps nothing from others."""
    _broken = False
    _settles = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unkept: list[str] = []
        self._kept_at_once = 0

    def can_consume(self) -> bool:
        """Whether there is room for another message, and somebody to work on it."""
        return not self.hung and bool(super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        """Hold a message until it is acknowledged."""
        if self.channel.takes:
            message._raw = None  # noqa: SLF001  # for kombu's own, which writes it down itself
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge: with all others of this turn of the hub, or by a later connection."""
        self.owed.add(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)
        hub = get_event_loop()
        if hub is None:
            self.settle()
        elif not self._settles:
            self._settles = True
            # Not call_soon: who acknowledges is called so, and would wait out the next poll.
            hub.call_later(0, self.settle)

    def settle(self) -> None:
        """Send the acknowledgements that are owed.

        One failure is enough: each further try would hold up the main thread for a timeout.
        """
        self._settles = False
        if self._broken or not self.owed:
            return
        try:
            with self.channel.conn_or_acquire() as client:
                self._send_owed(client)
        except (RedisError, OSError) as error:
            logger.warning("acknowledgements wait for the broker: %s", error)
            self._broken = True

    def _send_owed(self, client: Any) -> None:
        if self.owed:
            with client.pipeline() as pipe:
                pipe.zrem(self.unacked_index_key, *self.owed)
                pipe.hdel(self.unacked_key, *self.owed)
                pipe.execute()
            self.owed.clear()

    def adopt(self, messages: Iterable[Any]) -> None:
        """Hold what a channel held whose connection is gone; it counts as taken by this one."""
        for message in messages:
            message.channel = self.channel
            virtual.QoS.append(self, message, message.delivery_tag)

    def keep(self) -> None:
        """Send the acknowledgements that are owed; put off the return of all that is held."""
        with self._refusals_told(), self.channel.conn_or_acquire() as client:
            self._send_owed(client)
            self._broken = False
        self._unkept = list(self._delivered.keys() - self._dirty)
        self._kept_at_once = max(_AT_LEAST, ceil(len(self._unkept) / _PARTS))
        self.keep_some()

    def keep_all(self) -> None:
        """The same at once: after an outage there is no time to lose."""
        self.keep()
        while self._unkept:
            self.keep_some()

    def keep_some(self) -> None:
        """Put off the return of a part of them: all at once would hold up every job."""
        part = self._unkept[-self._kept_at_once :]
        del self._unkept[-self._kept_at_once :]
        if part and not self.hung:
            with self._refusals_told(), self.channel.conn_or_acquire() as client:
                # XX: one that was acknowledged meanwhile must not come back.
                client.zadd(self.unacked_index_key, dict.fromkeys(part, time()), xx=True)

    @contextmanager
    def _refusals_told(self) -> Iterator[None]:
        try:
            yield
        except ResponseError as error:
            logger.warning("messages that are held cannot be renewed: %s", error)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Give back what a dead worker held, unless the server takes no writes."""
        if monotonic() < self.restores_from:
            return
        try:
            super().restore_visible(*args, **kwargs)
        except ResponseError as error:
            logger.warning("messages of dead workers cannot be given back: %s", error)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Give one message back; a refusal is to its callers what a lost connection is."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except ResponseError as error:
            raise RedisConnectionError(f"a message cannot be given back: {error}") from error
