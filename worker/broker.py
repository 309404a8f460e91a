"""kombu's Redis transport, made to lose no message.

kombu 5.7 pops a message (BRPOP) and then writes down that it holds it: a worker that is
killed in between loses it (measured: 32 of 100 kills under load). Here a worker waits for
a message without popping it, by moving the last one onto itself (BLMOVE), then takes it
and writes it down in one script (``take.lua``), where kombu's own QoS looks for it.

It also differs when a connection ends. kombu would give everything back at once, and a
second copy of each running job would start (and when the server is gone, it would fail on
that and end the worker). Here nothing is given back but what is rejected: the visibility
timeout does it for a worker that does not come back.
"""

from queue import Empty
from time import monotonic, time
from typing import Any, Final

from celery.utils.log import get_logger
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from schemas import names
from worker.lua import source

logger = get_logger(__name__)

_MOST_AT_ONCE: Final = 32
_TAKE: Final = source("take")


class QoS(redis.QoS):
    """Knows that what was taken by the script is written down already."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Hold a message until it is acknowledged."""
        if self.channel.takes:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)


class _Taking:
    """A channel that takes messages in one step; stands before kombu's class."""

    QoS = QoS
    do_restore = False
    takes = True
    """Whether the server can; fakeredis 2.40 does not block on BLMOVE."""

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
        self.client.connection.send_command("BLMOVE", key, key, "RIGHT", "RIGHT", wait_s or 0)

    def _brpop_read(self: Any, **options: Any) -> bool:
        if not self.takes:
            read: bool = super()._brpop_read(**options)  # type: ignore[misc]  # the same
            return read
        try:
            moved = self._read_move(**options)
            if moved is None and monotonic() - self._brpop_sent_at < self.brpop_timeout / 2:
                self.takes = False
            taken = self._take()
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if not taken:
            raise Empty
        for queue, message in taken:
            self._queue_cycle.rotate(queue)
            self._deliver(message, queue)
        return True

    def _deliver(self: Any, raw: str, queue: str) -> None:
        message = loads(raw)
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001  # as kombu's own does
        except (*self.connection_errors, *self.connection.channel_errors):
            raise
        except Exception as error:  # noqa: BLE001  # a body that kombu cannot decode ends a worker
            logger.error("a message was discarded: %s", type(error).__name__)  # noqa: TRY400
            letter = {"job_id": "", "reason": "undecodable", "message": raw, "ts": f"{time():.3f}"}
            with self.conn_or_acquire() as client:
                client.xadd(names.DEAD_LETTERS, letter, maxlen=self.dead_letters_max)
            self.qos._remove_from_indices(  # noqa: SLF001  # an ack, of what was never appended
                message["properties"]["delivery_tag"]
            ).execute()

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
