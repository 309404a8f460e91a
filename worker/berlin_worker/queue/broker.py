"""kombu's Redis transport, made to lose no message.

kombu 5.7 pops a message (BRPOP) and then writes down that it holds it: a worker that is
killed in between loses it (measured: 32 of 100 kills under load). Here a worker waits for
a message without popping it, by moving the last one onto itself (BLMOVE), and a script takes
it and writes it down in one step (``take.lua``), where kombu's own QoS looks for it. Both are
sent at once, so that the server runs the script as soon as there is a message: it takes one,
and says whether more wait; those the next call takes, without a wait. What was taken for a
consumer that is gone by then goes back.

It also differs when a connection ends. kombu would give everything back at once, and a
second copy of each running job would start (and when the server is gone, it would fail on
that and end the worker). Here nothing is given back but what is rejected: the visibility
timeout does it for a worker that does not come back. One that does come back keeps what it
works on, since a message is held in the server by its tag and by no connection: the next
channel adopts it, and sends the acknowledgements that the last one could not.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty
from time import monotonic, sleep, time
from typing import Any, Final

from celery.utils.log import get_logger
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from pydantic_core import from_json
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from berlin_schemas import names
from berlin_worker.lua import sha1, source
from berlin_worker.queue.held import QoS
from berlin_worker.queue.purge import PurgeMixin

logger = get_logger(__name__)

_MOST_AT_ONCE: Final = 32
_TAKE: Final = source("take")
_TAKE_SHA1: Final = sha1(_TAKE)
_SCRIPT: Final = frozenset({"EVAL", "EVALSHA"})
_NOTHING: Final = "worker:nothing"
_REFUSED_S: Final = 1.0


class Taking:
    """A channel that takes messages in one step; stands before kombu's class."""

    QoS = QoS
    do_restore = False
    _blocks = True
    """Whether the server blocks on BLMOVE; fakeredis 2.40 does not."""
    _refused = False
    """Whether the server has just refused to move a message: it is full, or cannot write."""
    _more = False
    """Whether messages wait: there is nothing to wait for."""
    _script_known = False
    _asked: tuple[str, ...] = ()
    """The commands on their way, of each its first word."""
    _lists: Sequence[tuple[str, str]] = ()
    """Queue and key of each list that the script looks at."""
    _kept: Any = None

    @staticmethod
    def tell_reader(job_id: str) -> None:
        """Called for a message that is buried since kombu cannot read it, with the job ID that it
        bears or an empty string. Who consumes puts its own in the place of this."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._acknowledging: set[str] = set()
        super().__init__(*args, **kwargs)

    @property
    def takes(self) -> bool:
        """Whether messages are taken by the script, as of the commands on their way."""
        return bool(self._asked)

    def basic_consume(
        self: Any, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any
    ) -> Any:
        """As kombu's. Where nobody acknowledges, as who collects replies, they may get lost, and
        the user may have no right to take them by the script."""
        if not no_ack:
            self._acknowledging.add(consumer_tag)
        return super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)  # type: ignore[misc]  # as below

    def basic_cancel(self: Any, consumer_tag: str) -> Any:
        """As kombu's."""
        self._acknowledging.discard(consumer_tag)
        return super().basic_cancel(consumer_tag)  # type: ignore[misc]  # as below

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
        if not (self._blocks and self._acknowledging):
            self._asked = ()
            super()._brpop_start(timeout)  # type: ignore[misc]  # kombu's channel follows
            return
        if not self.active_queues:
            return
        commands = self._commands(self.brpop_timeout if timeout is None else timeout)
        connection = self._in_poll = self.client.connection
        self._asked = tuple(command[0] for command in commands)
        self._brpop_sent_at = monotonic()
        connection.send_packed_command(connection.pack_commands(commands))

    def _commands(self: Any, wait_s: float) -> list[tuple[Any, ...]]:
        if self._refused:
            # A pause, for which no thread waits: nobody ever pushes to this list.
            return [("BRPOP", _NOTHING, wait_s or 1)]
        if self._more:
            room = self.qos.can_consume_max_estimate()
            return [self._take(_MOST_AT_ONCE if room is None else min(room, _MOST_AT_ONCE))]
        # One message at most: if this process stops before it reads the reply, another worker
        # gets it after the visibility timeout only.
        take = self._take(1)
        # One list can be waited for: those of other priorities are looked at when the wait
        # ends, after brpop_timeout at the latest.
        _, key = self._lists[0]
        return [("BLMOVE", key, key, "RIGHT", "RIGHT", wait_s or 0), take]

    def _brpop_read(self: Any, **options: Any) -> bool:
        if not self.takes:
            read: bool = super()._brpop_read(**options)  # type: ignore[misc]  # the same
            return read
        try:
            taken = self._taken(self._replies())
        except self.connection_errors:
            if self._closing:
                raise Empty from None
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if not taken:
            raise Empty
        self._give_back([message for queue, message in taken if not self._consumes(queue)])
        for queue, message in taken:
            if self._consumes(queue):
                self._queue_cycle.rotate(queue)
                self._deliver(message, queue)
        return True

    def _take(self: Any, most: int) -> tuple[Any, ...]:
        queues = self._queue_cycle.consume(len(self.active_queues))
        self._lists = [
            (queue, self._q_for_pri(queue, step))
            for step in self.priority_steps
            for queue in queues
        ]
        keys = [self.unacked_key, self.unacked_index_key, names.DEAD_LETTERS]
        keys += [key for _, key in self._lists]
        script = ("EVALSHA", _TAKE_SHA1) if self._script_known else ("EVAL", _TAKE)
        return (*script, len(keys), *keys, most, time(), self.dead_letters_max)

    def _replies(self: Any) -> list[Any]:
        """The reply to each command that was sent; an error reply is one, too.

        None where the channel is being closed and nothing has come: nothing was taken then,
        and a dead connection would take a timeout.
        """
        connection = self.client.connection
        # One that is not connected would do that now.
        if self._closing and not (connection._sock and connection.can_read()):  # noqa: SLF001  # the same
            return []
        replies: list[Any] = []
        while len(replies) < len(self._asked):
            try:
                replies.append(connection.read_response())
            except ResponseError as error:
                replies.append(error)
            except self.connection_errors:
                connection.disconnect()  # the next round connects again
                raise
        return replies

    def _taken(self: Any, replies: list[Any]) -> list[tuple[str, str]]:
        """What the script has taken, each message with its queue."""
        paused, self._refused, self._more = self._refused, False, False
        taken: list[tuple[str, str]] = []
        for command, reply in zip(self._asked, replies, strict=False):
            match reply:
                case ReadOnlyError():  # there is another primary now
                    raise RedisConnectionError(str(reply)) from reply
                case NoScriptError():
                    self._script_known = False
                case ResponseError() if not self._refused:
                    logger.warning("no message can be taken: %s", reply)
                    self._refused = True
                case [more, *numbered] if command in _SCRIPT:
                    self._more, self._script_known = bool(more), True
                    for number, raw in zip(numbered[::2], numbered[1::2], strict=True):
                        if number > 0:
                            taken.append((self._lists[number - 1][0], bytes_to_str(raw)))
                        else:
                            self.tell_reader(_id_of(raw) if number else bytes_to_str(raw))
                case None if command == "BLMOVE":
                    waited_s = monotonic() - self._brpop_sent_at
                    self._blocks = waited_s >= self.brpop_timeout / 2
        if paused and self._refused:
            sleep(_REFUSED_S)  # not even the pause is allowed: an ACL that forbids it all
            self._refused = False
        return taken

    def _consumes(self: Any, queue: str) -> bool:
        return queue in self._active_queues and not self._closing

    def _give_back(self: Any, messages: list[str]) -> None:
        """To the head of their queues; without a server the visibility timeout does it."""
        try:
            # The last to return is the first to be delivered, so the oldest comes last.
            for message in reversed(messages):
                self.qos.restore_by_tag(json.loads(message)["properties"]["delivery_tag"])
        except self.connection_errors as error:
            logger.warning("a message goes back when its time is up: %s", error)

    def _put(self: Any, queue: str, message: Any, **kwargs: Any) -> None:
        if (message.get("headers") or {}).get(names.FIRST):
            priority = self._get_message_priority(message, reverse=False)
            with self.conn_or_acquire() as client:
                client.rpush(self._q_for_pri(queue, priority), dumps(message))
        else:
            super()._put(queue, message, **kwargs)  # type: ignore[misc]  # the same

    def _deliver(self: Any, raw: str, queue: str) -> None:
        message = _envelope(raw)
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
            job_id, reason = _id_of(raw), "undecodable"
            letter = {"job_id": job_id, "reason": reason, "message": raw, "ts": f"{time():.3f}"}
            # In one step: a message that is still there would come back, to be buried again.
            with self.conn_or_acquire() as client, client.pipeline() as pipe:
                pipe.xadd(names.DEAD_LETTERS, letter, maxlen=self.dead_letters_max)
                self.qos._remove_from_indices(tag, pipe).execute()  # noqa: SLF001  # the same
            self.tell_reader(job_id)


def _envelope(raw: str) -> dict[str, Any]:
    """A message as it stands on the queue; Celery keeps it while its job streams.

    All have the same keys, and share them: of a stream's 47 KB these were 1.5.
    """
    try:
        message: dict[str, Any] = from_json(raw, cache_strings="keys")
    except ValueError:  # half a surrogate pair
        message = json.loads(raw)
    return message


def _id_of(raw: str | bytes) -> str:
    """The job ID that a message bears which kombu cannot read, or an empty string."""
    try:
        job_id = json.loads(raw)["headers"]["id"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""
    return job_id if names.is_job_id(job_id) else ""


class RedisChannel(Taking, PurgeMixin, redis.Channel):  # type: ignore[misc]  # kombu has no type information
    """For ``redis://`` and ``rediss://``."""

    from_transport_options = (  # type: ignore[assignment]  # kombu's own subclass adds some too
        *redis.Channel.from_transport_options,
        "dead_letters_max",
    )
    dead_letters_max = 10_000


class SentinelChannel(Taking, PurgeMixin, redis.SentinelChannel):  # type: ignore[misc]  # the same
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
