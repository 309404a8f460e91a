"""kombu's Redis transport, made to lose no message.

kombu 5.7 pops a message (BRPOP) and then writes down that it holds it: a worker that is
killed in between loses it (measured: 32 of 100 kills under load). Here a worker waits for
a message without popping it, by moving the last one onto itself (BLMOVE), and a script takes
it and writes it down in one step (``reserve.lua``), under a tag of the worker's own and with the
list that it came from, to which it goes back as it came. Both are sent at once, so that the server
runs the script as soon as there is a message: it takes one, and says whether more wait; those the
next call takes, without a wait. What was taken for a consumer that is gone by then goes back.

It also differs when a connection ends. kombu would give everything back at once, and a
second copy of each running job would start (and when the server is gone, it would fail on
that and end the worker). Here nothing is given back but what is rejected: the visibility
timeout does it for a worker that does not come back. One that does come back keeps what it
works on, since a message is held in the server by its tag and by no connection: the next
channel adopts it, and sends the acknowledgements that the last one could not.
"""

import secrets
from collections.abc import Mapping, Sequence
from queue import Empty
from time import monotonic, sleep
from typing import Any, Final

from celery.utils.log import get_logger
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from berlin_schemas import names
from berlin_worker.broker.guard import Guarded
from berlin_worker.broker.priority_waits import PriorityWaits
from berlin_worker.broker.purge import PurgeMixin
from berlin_worker.broker.qos import QoS
from berlin_worker.errors import SettingsError
from berlin_worker.storage.scripts import sha1, source

logger = get_logger(__name__)

_MOST_AT_ONCE: Final = 32
_TAKE: Final = source("reserve", "unacked_entry")
_TAKE_SHA1: Final = sha1(_TAKE)
_SCRIPT: Final = frozenset({"EVAL", "EVALSHA"})
_NOTHING: Final = "worker:nothing"
_REFUSED_S: Final = 1.0
Taken = tuple[str, str, bytes, bool]
"""A message: its queue, its tag, its bytes, and whether a worker held it before."""
_POLL_S: Final = 0.05
"""How often messages are looked for on a server that does not block."""


class AtomicReserveMixin(Guarded):
    """A channel that takes messages in one step; stands before kombu's class."""

    QoS = QoS
    do_restore = False
    _blocks: bool | None = None
    """Whether the server blocks on BLMOVE, once a wait has ended; fakeredis 2.40 does not."""
    _refused = False
    """Whether the server has just refused to move a message: it is full, or cannot write."""
    _more = False
    """Whether messages wait: there is nothing to wait for."""
    _script_known = False
    _asked: tuple[str, ...] = ()
    """The commands on their way, of each its first word."""
    _lists: Sequence[tuple[str, str]] = ()
    """Queue and key of each list that the script looks at."""
    _look = False
    """Whether a list has a message whose wait was another: the next look waits for nothing."""
    _numbered: Any = None
    """The socket that the server calls by ``_number``."""
    _number: int | None = None

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        check_options(connection.client.transport_options)
        self._acknowledging: set[str] = set()
        self._tags, self._calls = secrets.token_urlsafe(9), 0
        self._waits = PriorityWaits(self._connect, self._wake)
        super().__init__(connection, *args, **kwargs)  # type: ignore[call-arg]  # kombu's channel follows

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
        consumed = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)  # type: ignore[misc]  # as below
        if queue in self.active_fanout_queues:
            # At once, not when the event loop begins: a worker that says that it is ready listens.
            self.connection.cycle._register_LISTEN(self)  # noqa: SLF001  # kombu does it so, later
            self._subscribe()
        return consumed

    def basic_cancel(self: Any, consumer_tag: str) -> Any:
        """As kombu's."""
        self._acknowledging.discard(consumer_tag)
        return super().basic_cancel(consumer_tag)  # type: ignore[misc]  # as below

    def close(self: Any) -> None:
        """As kombu's."""
        self._waits.close()
        super().close()  # type: ignore[misc]  # as below

    def _connect(self: Any) -> Any:
        """A connection outside of the pool, which has a limit."""
        return self.pool.connection_class(**self.pool.connection_kwargs)

    def _ask_number(self: Any, connection: Any) -> int | None:
        """What the server calls a connection; without that its waits last until their end."""
        connection.send_command("CLIENT", "ID")
        try:
            return int(connection.read_response())
        except ResponseError:
            return None

    def _wake(self: Any) -> None:
        """Let the script look at all lists now, by an end of the wait that stands before it."""
        self._look = True
        if self._in_poll and self._number is not None and self.qos.can_consume():
            try:
                with self.conn_or_acquire() as client:
                    client.client_unblock(self._number)
            except (RedisError, OSError) as error:
                self._number = None
                logger.warning("messages of other priorities are found a second late: %s", error)

    def _brpop_start(self: Any, timeout: float | None = None) -> None:
        if not self._acknowledging:
            self._asked = ()
            super()._brpop_start(timeout)  # type: ignore[misc]  # kombu's channel follows
            return
        if not self.active_queues:
            return
        connection = self._in_poll = self.client.connection
        commands = self._commands(self.brpop_timeout if timeout is None else timeout)
        waits = commands[0][0] == "BLMOVE"
        if waits and self._numbered is not connection._sock:  # noqa: SLF001  # redis-py does not show it
            # Not with the others: its reply alone would wake the hub, to wait for theirs.
            self._number = self._ask_number(connection)
            self._numbered = connection._sock  # noqa: SLF001  # the same
        self._asked = tuple(command[0] for command in commands)
        self._brpop_sent_at = monotonic()
        connection.send_packed_command(connection.pack_commands(commands))
        if waits:
            self._waits.start(key for _, key in self._lists[1:])

    def _commands(self: Any, wait_s: float) -> list[tuple[Any, ...]]:
        if self._refused:
            # A pause, for which no thread waits: nobody ever pushes to this list.
            return [("BRPOP", _NOTHING, wait_s or 1)]
        if self._more or self._look:
            self._look = False
            room = self.qos.can_consume_max_estimate()
            return [self._take(_MOST_AT_ONCE if room is None else min(room, _MOST_AT_ONCE))]
        # One message at most: if this process stops before it reads the reply, another worker
        # gets it after the visibility timeout only.
        take = self._take(1)
        if self._blocks is False:
            return [("BRPOP", _NOTHING, _POLL_S), take]
        # One list can be waited for by this connection; see priority_waits for the others.
        _, key = self._lists[0]
        return [("BLMOVE", key, key, "RIGHT", "RIGHT", wait_s or 0), take]

    def _brpop_read(self: Any, **options: Any) -> bool:
        if not self.takes:
            popped: bool = self._pop_read(**options)
            return popped
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
        # The last to return is the first to be delivered, so the oldest comes last.
        self._give_back([tag for queue, tag, *_ in reversed(taken) if not self._consumes(queue)])
        for queue, tag, raw, redelivered in taken:
            if self._consumes(queue):
                self._queue_cycle.rotate(queue)
                self._deliver(raw, queue, tag, redelivered)
        return True

    def _take(self: Any, most: int) -> tuple[Any, ...]:
        queues = self._queue_cycle.consume(len(self.active_queues))
        self._lists = self._lists_of(queues)
        script = ("EVALSHA", _TAKE_SHA1) if self._script_known else ("EVAL", _TAKE)
        return (*script, *self._take_arguments(most))

    def _lists_of(self: Any, queues: Sequence[str]) -> list[tuple[str, str]]:
        return [
            (queue, self._q_for_pri(queue, step))
            for step in self.priority_steps
            for queue in queues
        ]

    def _take_arguments(self: Any, most: int) -> tuple[Any, ...]:
        keys = [*self.qos.keys(), *(key for _, key in self._lists)]
        self._calls += 1
        return (len(keys), *keys, most, f"{self._tags}{self._calls:x}.")

    def _replies(self: Any) -> list[Any]:
        """The reply to each command that was sent; an error reply is one, too.

        None where the channel is being closed and nothing has come: nothing was taken then,
        and a dead connection would take a timeout.
        """
        connection = self.client.connection
        # One that is not connected would do that now.
        if self._closing and not (connection._sock and connection.can_read()):  # noqa: SLF001  # redis-py does not show it
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

    def _taken(self: Any, replies: list[Any]) -> list[Taken]:
        """Return what the script has taken."""
        paused, self._refused, self._more = self._refused, False, False
        taken: list[Taken] = []
        for command, reply in zip(self._asked, replies, strict=False):
            match reply:
                case ReadOnlyError():  # there is another primary now
                    raise RedisConnectionError(str(reply)) from reply
                case NoScriptError():
                    self._script_known = False
                case ResponseError() if not self._refused:
                    logger.warning("no message can be taken: %s", reply)
                    self._refused = True
                case [more, *listed] if command in _SCRIPT:
                    self._more, self._script_known = bool(more), True
                    taken += self._named(listed)
                case None if command == "BLMOVE" and self._blocks is None:
                    waited_s = monotonic() - self._brpop_sent_at
                    self._blocks = self._look or waited_s >= self.brpop_timeout / 2
        if paused and self._refused:
            sleep(_REFUSED_S)  # not even the pause is allowed: an ACL that forbids it all
            self._refused = False
        return taken

    def _named(self, listed: Sequence[Any]) -> list[Taken]:
        fields = zip(*(listed[offset::4] for offset in range(4)), strict=True)
        return [
            (self._lists[number - 1][0], bytes_to_str(tag), raw, bool(redelivered))
            for number, tag, raw, redelivered in fields
        ]

    def _consumes(self: Any, queue: str) -> bool:
        return queue in self._active_queues and not self._closing

    def _give_back(self: Any, tags: list[str]) -> None:
        """To the head of their queues; without a server the visibility timeout does it."""
        try:
            self.qos.give_back(tags)
        except self.connection_errors as error:
            logger.warning("a message goes back when its time is up: %s", error)

    def _put(self: Any, queue: str, message: Any, **kwargs: Any) -> None:
        if (message.get("headers") or {}).get(names.FIRST):
            priority = self._get_message_priority(message, reverse=False)
            with self.conn_or_acquire() as client:
                client.rpush(self._q_for_pri(queue, priority), dumps(message))
        else:
            super()._put(queue, message, **kwargs)  # type: ignore[misc]  # the same

    def _get(self: Any, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002  # kombu's signature
        """One message, held like all others; raises ``Empty``."""
        self._lists = self._lists_of([queue])
        while True:
            with self.conn_or_acquire() as client:
                _, *listed = client.eval(_TAKE, *self._take_arguments(1))
                self._maybe_update_queues_expire(client, queue)
            if not listed:
                raise Empty
            ((_, tag, raw, redelivered),) = self._named(listed)
            message: dict[str, Any] | None = self._read(raw, tag, redelivered)
            if message is not None:
                return message

    def basic_get(self: Any, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """As kombu's."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)  # type: ignore[misc]  # the same
        if message is not None and no_ack:
            self.qos._remove_from_indices(message.delivery_tag).execute()  # noqa: SLF001  # as an ack does
        return message


def check_options(transport_options: Mapping[str, Any]) -> None:
    """Raise ``SettingsError`` for an option of kombu's that would be obeyed in part."""
    if transport_options.get("global_keyprefix"):
        raise SettingsError(
            "broker_transport_options: global_keyprefix is not supported; what separates two "
            "fleets is a Redis database or server of their own for each (CELERY_BROKER_URL)"
        )


class RedisChannel(AtomicReserveMixin, PurgeMixin, redis.Channel):  # type: ignore[misc]  # kombu has no type information
    """For ``redis://`` and ``rediss://``."""

    from_transport_options = (  # type: ignore[assignment]  # kombu's own subclass adds some too
        *redis.Channel.from_transport_options,
        "dead_letters_max",
    )
    dead_letters_max = 10_000


class SentinelChannel(AtomicReserveMixin, PurgeMixin, redis.SentinelChannel):  # type: ignore[misc]  # the same
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
