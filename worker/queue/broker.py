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
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty
from sys import intern
from time import monotonic, sleep, time
from typing import Any, Final

from celery.utils.log import get_logger
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from schemas import names
from worker.lua import source
from worker.queue.held import QoS

logger = get_logger(__name__)

_MOST_AT_ONCE: Final = 32
_TAKE: Final = source("take")
_NOTHING: Final = "worker:nothing"
_REFUSED_S: Final = 1.0


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
            self.client.connection.send_command("BRPOP", _NOTHING, wait_s or 1)
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
            self._refused = not paused
            if paused:
                sleep(_REFUSED_S)  # not even the pause is allowed: an ACL that forbids it all
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
        message = json.loads(raw, object_pairs_hook=_shared_keys)
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
            # In one step: a message that is still there would come back, to be buried again.
            with self.conn_or_acquire() as client, client.pipeline() as pipe:
                pipe.xadd(names.DEAD_LETTERS, letter, maxlen=self.dead_letters_max)
                self.qos._remove_from_indices(tag, pipe).execute()  # noqa: SLF001  # the same

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


def _shared_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of an envelope; Celery keeps it while its job streams, and all have the same keys.

    Of a stream's 47 KB the names of its headers were 1.5.
    """
    return {intern(key): value for key, value in pairs}


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
