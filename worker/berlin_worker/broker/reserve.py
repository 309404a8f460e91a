"""Reserve messages of a Redis queue in one atomic step, so that a killed worker loses none.

kombu 5.7 pops a message (BRPOP) and then writes it to the unacked hash: a worker that is killed in
between loses it (measured: 32 of 100 kills under load). This channel sends two commands at once:

1. BLMOVE of the last message of a list onto the end of the same list waits without popping.
2. ``reserve.lua`` moves the message to the unacked hash, with the name of its list and under a tag
   of this worker. It also returns whether more messages wait; the next call then reserves up to 32,
   but fewer large ones, without a wait.

A message that was reserved for a consumer that has gone is put back on its list.

kombu requeues every unacked message when a connection ends, so a second copy of each running job
would start. This channel requeues rejected messages only. The messages of a dead worker come back
after the visibility timeout. A worker that reconnects keeps its messages, because the server holds
them by tag and not by connection: its next channel adopts them, and sends the pending
acknowledgements.
"""

import secrets
from collections.abc import Sequence
from queue import Empty
from time import monotonic, sleep
from typing import Any, Final

from celery.utils.log import get_logger
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from berlin_schemas import names
from berlin_worker.broker.guard import Guarded, Reserved
from berlin_worker.broker.options import check_options
from berlin_worker.broker.priority_waits import PriorityWaits, WaitEnder
from berlin_worker.broker.qos import QoS
from berlin_worker.storage.scripts import sha1, source

logger = get_logger(__name__)

_MOST_AT_ONCE: Final = 32
_ENOUGH_BYTES: Final = 4 * 1024 * 1024
"""The sum of bytes after which a call reserves no more: it exceeds this by one message at most."""
_SCRIPT: Final = source("reserve", "unacked_entry")
_HEADER_BYTES: Final = 8 * 1024 * 1024
"""The largest message without its job object. As base64 of ASCII JSON a job of ``n`` bytes has at
most ``8 * n``. The script cuts a longer message, which makes it unreadable."""
_SCRIPT_SHA1: Final = sha1(_SCRIPT)
_SCRIPT_COMMANDS: Final = frozenset({"EVAL", "EVALSHA"})
_PAUSE_LIST: Final = "worker:nothing"
"""A list to which nobody pushes: BRPOP of it is a pause."""
_REFUSED_S: Final = 1.0
_POLL_S: Final = 0.05
"""The pause between two calls of the script on a server whose BLMOVE does not block."""


class AtomicReserveMixin(Guarded):
    """A channel that reserves messages in one step. It stands before kombu's class in the MRO."""

    QoS = QoS
    do_restore = False
    _blocks: bool | None = None
    """Whether BLMOVE blocks, as of the first wait that ended; fakeredis 2.40 does not."""
    _refused = False
    """Whether the server has just refused to move a message: it is full, or read-only."""
    _more_waiting = False
    """Whether more messages wait, as of the last reply."""
    _script_cached = False
    _sent: tuple[str, ...] = ()
    """The names of the commands whose replies have not been read."""
    _lists: Sequence[tuple[str, str]] = ()
    """Queue and key of each list that the script reads."""
    _check_now = False
    """Whether another wait has found a message: the next round does not wait."""

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        check_options(connection.client.transport_options)
        self._acknowledging: set[str] = set()
        """The tags of the consumers that acknowledge."""
        self._tag_prefix, self._calls = secrets.token_urlsafe(9), 0
        self._waits, self._wait_ender = PriorityWaits(self._connect, self._wake), WaitEnder()
        super().__init__(connection, *args, **kwargs)  # type: ignore[call-arg]  # kombu's channel is the next base

    @property
    def settled_at(self) -> float:
        """Acknowledgements from before this time (``monotonic()``) are not sent any more."""
        return 0.0

    @property
    def reserves(self) -> bool:
        """Whether the commands on their way reserve messages; kombu's own command pops them."""
        return bool(self._sent)

    def basic_consume(
        self: Any, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any
    ) -> Any:
        """Consume a queue.

        A consumer that does not acknowledge, such as one that collects replies, pops messages by
        kombu's own command: its Redis user may lack the rights that the script needs.
        """
        if not no_ack:
            self._acknowledging.add(consumer_tag)
        consumed = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)  # type: ignore[misc]  # kombu's channel is the next base
        if queue in self.active_fanout_queues:
            # kombu subscribes when the event loop starts, which is after Celery logs "ready".
            self.connection.cycle._register_LISTEN(self)  # noqa: SLF001  # kombu has no public call
            self._subscribe()
        return consumed

    def basic_cancel(self: Any, consumer_tag: str) -> Any:
        """Stop a consumer."""
        self._acknowledging.discard(consumer_tag)
        return super().basic_cancel(consumer_tag)  # type: ignore[misc]  # kombu's channel is the next base

    def close(self: Any) -> None:
        """Close the channel and its waits."""
        self._waits.close()
        super().close()  # type: ignore[misc]  # kombu's channel is the next base

    def _connect(self: Any) -> Any:
        """Return a new connection outside of the pool, which has a limit."""
        return self.pool.connection_class(**self.pool.connection_kwargs)

    def _wake(self: Any) -> None:
        """End the wait, so that the script behind it reads all lists now."""
        self._check_now = True
        if self._in_poll and self.qos.can_consume():
            self._wait_ender.end(self.conn_or_acquire)

    def _brpop_start(self: Any, timeout: float | None = None) -> None:
        if not self._acknowledging:
            self._sent = ()
            super()._brpop_start(timeout)  # type: ignore[misc]  # kombu's channel is the next base
            return
        if not self.active_queues:
            return
        connection = self._in_poll = self.client.connection
        commands = self._commands(self.brpop_timeout if timeout is None else timeout)
        waits = commands[0][0] == "BLMOVE"
        if waits:
            # Before the others: with them, its reply would wake the hub to wait for theirs.
            self._wait_ender.identify(connection)
        self._sent = tuple(command[0] for command in commands)
        self._brpop_sent_at = monotonic()
        connection.send_packed_command(connection.pack_commands(commands))
        if waits:
            self._waits.start(key for _, key in self._lists[1:])

    def _commands(self: Any, wait_s: float) -> list[tuple[Any, ...]]:
        if self._refused:
            return [("BRPOP", _PAUSE_LIST, wait_s or 1)]
        if self._more_waiting or self._check_now:
            self._check_now = False
            room = self.qos.can_consume_max_estimate()
            return [self._command(_MOST_AT_ONCE if room is None else min(room, _MOST_AT_ONCE))]
        # One message: if this process dies before it reads the reply, another worker receives it
        # only after the visibility timeout.
        reserve = self._command(1)
        if self._blocks is False:
            return [("BRPOP", _PAUSE_LIST, _POLL_S), reserve]
        # This connection can wait for one list; priority_waits.py waits for the others.
        _, key = self._lists[0]
        return [("BLMOVE", key, key, "RIGHT", "RIGHT", wait_s or 0), reserve]

    def _brpop_read(self: Any, **options: Any) -> bool:
        if not self.reserves:
            popped: bool = self._pop_read(**options)
            return popped
        try:
            reserved = self._reserved_in(self._replies())
        except self.connection_errors:
            if self._closing:
                raise Empty from None
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if not reserved:
            raise Empty
        # The last one to go back is the first to be served, so the oldest goes last.
        self._requeue([each.tag for each in reversed(reserved) if not self._consumes(each.queue)])
        for message in reserved:
            if self._consumes(message.queue):
                self._queue_cycle.rotate(message.queue)
                self._deliver(message)
        return True

    def _command(self: Any, most: int) -> tuple[Any, ...]:
        """Return the command that reserves ``most`` messages at most."""
        queues = self._queue_cycle.consume(len(self.active_queues))
        self._lists = self.lists_of(queues)
        script = ("EVALSHA", _SCRIPT_SHA1) if self._script_cached else ("EVAL", _SCRIPT)
        return (*script, *self._script_arguments(most))

    def lists_of(self: Any, queues: Sequence[str]) -> list[tuple[str, str]]:
        """Return queue and key of each list, in the order in which they are served."""
        return [
            (queue, self._q_for_pri(queue, step))
            for step in self.priority_steps
            for queue in queues
        ]

    def _script_arguments(self: Any, most: int) -> tuple[Any, ...]:
        keys = [*self.qos.keys(), *(key for _, key in self._lists)]
        self._calls += 1
        tags = f"{self._tag_prefix}{self._calls:x}."
        longest = 8 * self.max_job_bytes + _HEADER_BYTES
        return (len(keys), *keys, most, tags, longest, _ENOUGH_BYTES)

    def _replies(self: Any) -> list[Any]:
        """Return the reply, or the error reply, to each command that was sent.

        Return an empty list if the channel is closing and no reply has come: then the script has
        not run, and to read from a dead connection would last until its timeout.
        """
        connection = self.client.connection
        # can_read() would connect a connection that has no socket.
        if self._closing and not (connection._sock and connection.can_read()):  # noqa: SLF001  # redis-py has no public name for it
            return []
        replies: list[Any] = []
        while len(replies) < len(self._sent):
            try:
                replies.append(connection.read_response())
            except ResponseError as error:
                replies.append(error)
            except self.connection_errors:
                connection.disconnect()  # the next round connects again
                raise
        return replies

    def _reserved_in(self: Any, replies: list[Any]) -> list[Reserved]:
        """Return the messages in the replies, and note the state of the server."""
        paused, self._refused, self._more_waiting = self._refused, False, False
        reserved: list[Reserved] = []
        for command, reply in zip(self._sent, replies, strict=False):
            match reply:
                case ReadOnlyError():  # another server is the primary now
                    raise RedisConnectionError(str(reply)) from reply
                case NoScriptError():
                    self._script_cached = False
                case ResponseError() if not self._refused:
                    logger.warning("no message can be taken: %s", reply)
                    self._refused = True
                case [more, *fields] if command in _SCRIPT_COMMANDS:
                    self._more_waiting, self._script_cached = bool(more), True
                    reserved += self._messages_in(fields)
                case None if command == "BLMOVE" and self._blocks is None:
                    waited_s = monotonic() - self._brpop_sent_at
                    self._blocks = self._check_now or waited_s >= self.brpop_timeout / 2
        if paused and self._refused:
            sleep(_REFUSED_S)  # the ACL forbids even BRPOP of _PAUSE_LIST
            self._refused = False
        return reserved

    def _messages_in(self: Any, fields: Sequence[Any]) -> list[Reserved]:
        messages = zip(*(fields[offset::4] for offset in range(4)), strict=True)
        return [
            Reserved(self._lists[number - 1][0], bytes_to_str(tag), raw, bool(redelivered))
            for number, tag, raw, redelivered in messages
        ]

    def _consumes(self: Any, queue: str) -> bool:
        return queue in self._active_queues and not self._closing

    def _requeue(self: Any, tags: list[str]) -> None:
        """Put messages back at the head of their lists; if that fails, the timeout does it."""
        try:
            self.qos.requeue(tags)
        except self.connection_errors as error:
            logger.warning("a message goes back after the visibility timeout: %s", error)

    def _put(self: Any, queue: str, message: Any, **kwargs: Any) -> None:
        if (message.get("headers") or {}).get(names.FIRST):
            priority = self._get_message_priority(message, reverse=False)
            with self.conn_or_acquire() as client:
                client.rpush(self._q_for_pri(queue, priority), dumps(message))
        else:
            super()._put(queue, message, **kwargs)  # type: ignore[misc]  # kombu's channel is the next base

    def _get(self: Any, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002  # kombu's signature
        """Reserve one message; raises ``Empty`` if none waits."""
        self._lists = self.lists_of([queue])
        while True:
            with self.conn_or_acquire() as client:
                _, *fields = client.eval(_SCRIPT, *self._script_arguments(1))
                self._maybe_update_queues_expire(client, queue)
            if not fields:
                raise Empty
            message: dict[str, Any] | None = self._read(*self._messages_in(fields))
            if message is not None:
                return message

    def basic_get(self: Any, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Return one message of a queue, or ``None``."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)  # type: ignore[misc]  # kombu's channel is the next base
        if message is not None and no_ack:
            self.qos._remove_from_indices(message.delivery_tag).execute()  # noqa: SLF001  # what kombu's QoS.ack calls
        return message
