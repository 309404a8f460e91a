"""kombu's Redis transport, made to lose no message.

kombu 5.7 pops a message (BRPOP) and then writes down that it holds it: a worker that is
killed in between loses it (measured: 32 of 100 kills under load). Here a worker waits for
a message without popping it, by moving the last one onto itself (BLMOVE), then takes it
and writes it down in one script (``take.lua``), where kombu's own QoS looks for it.

It also differs when a connection ends. kombu would give everything back at once, and a
second copy of each running job would start (and when the server is gone, it would fail on
that and end the worker). Here nothing is given back but what is rejected: the visibility
timeout does it for a worker that does not come back. One that does come back keeps what it
works on, since a message is held in the server by its tag and by no connection: the next
channel adopts it, and sends the acknowledgements that the last one could not.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import ceil
from queue import Empty
from time import monotonic, time
from typing import Any, ClassVar, Final

from celery.utils.log import get_logger
from kombu.asynchronous import get_event_loop
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from schemas import names
from worker.lua import source

logger = get_logger(__name__)

_MOST_AT_ONCE: Final = 32
_PARTS: Final = 8
"""In how many parts what is held is renewed, where it is much."""
_TAKE: Final = source("take")
_NOTHING: Final = "worker:nothing"


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
            hub.call_soon(self.settle)

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
        self._kept_at_once = max(_MOST_AT_ONCE, ceil(len(self._unkept) / _PARTS))
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


class _Taking:
    """A channel that takes messages in one step; stands before kombu's class."""

    QoS = QoS
    do_restore = False
    takes = True
    """Whether the server can; fakeredis 2.40 does not block on BLMOVE."""
    _refused = False
    """Whether the server has just refused to move a message: it is full, or cannot write."""
    _kept: Any = None

    @contextmanager
    def conn_or_acquire(self: Any, client: Any = None) -> Iterator[Any]:
        """A client; a channel that is closed has none, and kombu fails on it in odd ways."""
        if client is None:
            if self.connection is None:
                raise RedisConnectionError("the connection of this channel is gone")
            # Kept: to make one costs more than most of what it is asked for.
            if self._kept is None or self._kept.connection_pool is not self.pool:
                self._kept = self._create_client()
            client = self._kept
        yield client

    def _brpop_start(self: Any, timeout: float | None = None) -> None:
        if not self.takes:
            super()._brpop_start(timeout)  # type: ignore[misc]  # kombu's channel follows
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        # One list can be waited for: those of other priorities are looked at when the wait
        # ends, after brpop_timeout at the latest.
        key = self._key(queues[0], self.priority_steps[0])
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        wait_s = self.brpop_timeout if timeout is None else timeout
        if self._refused:
            # A pause, for which no thread waits: nobody ever pushes to this list.
            self.client.connection.send_command("BLPOP", _NOTHING, wait_s or 1)
        else:
            self.client.connection.send_command("BLMOVE", key, key, "RIGHT", "RIGHT", wait_s or 0)

    def _brpop_read(self: Any, **options: Any) -> bool:
        if not self.takes:
            read: bool = super()._brpop_read(**options)  # type: ignore[misc]  # the same
            return read
        if self._closing:
            # Nothing was popped, so nothing is lost; a dead connection would take a timeout.
            self._in_poll = None
            raise Empty
        try:
            paused, self._refused = self._refused, False
            moved = self._read_move(**options)
            if paused:
                raise Empty
            if moved is None and monotonic() - self._brpop_sent_at < self.brpop_timeout / 2:
                self.takes = False
            taken = self._take()
        except ReadOnlyError as error:
            raise RedisConnectionError(str(error)) from error  # there is another primary now
        except ResponseError as error:
            logger.warning("no message can be taken: %s", error)
            self._refused = True
            raise Empty from error
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if not taken:
            raise Empty
        for queue, message in taken:
            self._queue_cycle.rotate(queue)
            self._deliver(message, queue)
        return True

    def _put(self: Any, queue: str, message: Any, **kwargs: Any) -> None:
        if (message.get("headers") or {}).get(names.FIRST):
            priority = self._get_message_priority(message, reverse=False)
            with self.conn_or_acquire() as client:
                client.rpush(self._q_for_pri(queue, priority), dumps(message))
        else:
            super()._put(queue, message, **kwargs)  # type: ignore[misc]  # the same

    def _deliver(self: Any, raw: str, queue: str) -> None:
        message = json.loads(raw)
        tag = message["properties"]["delivery_tag"]
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001  # as kombu's own does
            if tag not in self.qos._delivered:  # noqa: SLF001  # kombu 5.7 does not tell otherwise
                # Whoever got it acknowledges nothing, as who collects replies to `inspect`.
                self.qos._remove_from_indices(tag).execute()  # noqa: SLF001  # as an ack does
        except (*self.connection_errors, *self.connection.channel_errors):
            raise
        except Exception as error:  # noqa: BLE001  # a body that kombu cannot decode ends a worker
            logger.error("a message was discarded: %s", type(error).__name__)  # noqa: TRY400
            letter = {"job_id": "", "reason": "undecodable", "message": raw, "ts": f"{time():.3f}"}
            with self.conn_or_acquire() as client:
                client.xadd(names.DEAD_LETTERS, letter, maxlen=self.dead_letters_max)
            self.qos._remove_from_indices(tag).execute()  # noqa: SLF001  # the same

    def _read_move(self: Any, **options: Any) -> bytes | None:
        try:
            moved: bytes | None = self.client.parse_response(
                self.client.connection, "BLMOVE", **options
            )
        except self.connection_errors:
            # The next round connects again.
            self.client.connection.disconnect()
            raise
        return moved

    def _take(self: Any) -> list[tuple[str, str]]:
        queues = self._queue_cycle.consume(len(self.active_queues))
        lists = [
            (queue, self._key(queue, step)) for step in self.priority_steps for queue in queues
        ]
        room = self.qos.can_consume_max_estimate()
        most = _MOST_AT_ONCE if room is None else max(1, min(room, _MOST_AT_ONCE))
        keys = [self.unacked_key, self.unacked_index_key, names.DEAD_LETTERS]
        keys += [key for _, key in lists]
        with self.conn_or_acquire() as client:
            # Not EVALSHA: fakeredis closes the connection of whoever asks for an unknown script.
            reply = client.eval(_TAKE, len(keys), *keys, most, time(), self.dead_letters_max)
        numbers, messages = reply[::2], reply[1::2]
        return [
            (lists[number - 1][0], bytes_to_str(message))
            for number, message in zip(numbers, messages, strict=True)
        ]

    def _key(self: Any, queue: str, step: int) -> str:
        key: str = self._q_for_pri(queue, step)
        return key


class RedisChannel(_Taking, redis.Channel):  # type: ignore[misc]  # kombu has no type information
    """For ``redis://`` and ``rediss://``."""

    from_transport_options = (  # type: ignore[assignment]  # kombu's own subclass adds some too
        *redis.Channel.from_transport_options,
        "dead_letters_max",
    )
    dead_letters_max = 10_000


class SentinelChannel(_Taking, redis.SentinelChannel):  # type: ignore[misc]  # the same
    """For ``sentinel://``."""

    from_transport_options = (  # type: ignore[assignment]  # the same
        *redis.SentinelChannel.from_transport_options,
        "dead_letters_max",
    )
    dead_letters_max = 10_000


class RedisTransport(redis.Transport):
    """kombu's, with our channel."""

    Channel = RedisChannel


class SentinelTransport(redis.SentinelTransport):
    """kombu's, with our channel."""

    Channel = SentinelChannel


def install() -> None:
    """Let the broker URLs of this process use the transports of this module.

    By their aliases: where a transport is named otherwise, kombu does not know that
    ``rediss://`` means TLS.
    """
    TRANSPORT_ALIASES.update(
        redis=f"{__name__}:RedisTransport",
        rediss=f"{__name__}:RedisTransport",
        sentinel=f"{__name__}:SentinelTransport",
    )
