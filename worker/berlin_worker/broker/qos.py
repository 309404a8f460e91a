"""The messages that this worker holds.

The worker extends their visibility while it works, and acknowledges them even after an outage. All
times are those of Redis's clock, because the clocks of workers differ.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from math import ceil
from time import monotonic, time
from typing import Any, Final

from celery.utils.log import get_logger
from kombu.asynchronous import get_event_loop
from kombu.transport import redis, virtual
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from berlin_schemas import names
from berlin_worker.broker.state import STATE
from berlin_worker.storage.scripts import sha1, source

logger = get_logger(__name__)

_SCRIPTS: Final = {
    name: source(name, "unacked_entry", "dead_letter_entry", "wrong_type")
    for name in ("extend_visibility", "requeue", "requeue_expired", "dead_letter")
}
_SHA1: Final = {name: sha1(script) for name, script in _SCRIPTS.items()}

_BATCHES: Final = 8
"""Into how many batches the held messages are split; each batch is one call of the script."""
_BATCH_MIN: Final = 32
"""The smallest number of messages in a batch, except for the last one."""
_REQUEUED_A_CALL: Final = 500
"""Messages that one call of the script requeues at most: Redis does nothing else meanwhile."""
_MOST_POSTPONED: Final = 65_535
"""Messages that wait for their ETA without their bodies; each takes 0.2 KB, and is extended."""
_CALLS_A_TURN: Final = 40
"""Calls one after the other, for which the main thread does nothing else."""
_CALLS_A_SEARCH: Final = 30
"""Every so many calls, the script also searches for entries without an index."""


class QoS(redis.QoS):
    """The messages that this worker holds. ``reserve.lua`` has written them to the unacked hash."""

    _disconnected = False
    _flush_scheduled = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._to_extend: list[str] = []
        """Tags of held messages that wait for their batch."""
        self._batch_size = 0
        self._searches = 0
        self._postponed: list[tuple[float, str]] = []
        """A heap of ETA (``time()``) and tag of each message that is held without its body."""
        self._cached: set[str] = set()
        """The scripts in the server's cache."""

    def can_consume(self) -> bool:
        """Return whether this process has room for another message, and can work on it."""
        return not STATE.suspended and bool(super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        """Hold a message until it is acknowledged."""
        message._raw = None  # noqa: SLF001  # only kombu's own QoS needs it
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message, together with all others of this turn of the event loop.

        If the connection is lost, a later connection sends the acknowledgement, unless it leads
        to another primary: that may lack the end of the job, which must then run again.
        """
        STATE.pending_acks[delivery_tag] = monotonic()
        virtual.QoS.ack(self, delivery_tag)
        hub = get_event_loop()
        if hub is None:
            self.flush_acks()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            # Not call_soon: acknowledgements run in it, and the flush would wait for the next poll.
            hub.call_later(0, self.flush_acks)

    def release(self, delivery_tag: str) -> None:
        """Extend a message no longer: it goes back after the visibility timeout, unless acked."""
        if delivery_tag in self._delivered:
            virtual.QoS.ack(self, delivery_tag)

    def postpone(self, delivery_tag: str, due: float) -> None:
        """Hold a message by its tag alone until ``due`` (``time()``), when it goes back.

        It takes no part in the number of messages that this worker may hold. Beyond
        ``_MOST_POSTPONED``, a message goes back after each visibility timeout.
        """
        if len(self._postponed) < _MOST_POSTPONED:
            heappush(self._postponed, (due, delivery_tag))
        self.release(delivery_tag)

    def _requeue_due(self) -> None:
        """Put those postponed messages back that are due; the first of them is served first."""
        due: list[str] = []
        while self._postponed and self._postponed[0][0] <= time() and len(due) < _REQUEUED_A_CALL:
            due.append(heappop(self._postponed)[1])
        if due:
            keys = self._requeue_keys(min(self.channel.active_queues, default=names.QUEUE))
            with self._logged_refusals():  # what is refused goes back after the visibility timeout
                self._run("requeue", keys, ["RPUSH", *reversed(due)])

    def flush_acks(self) -> None:
        """Send the pending acknowledgements.

        After one failure it sends none until the next extension succeeds: each further try would
        block the main thread for a timeout.
        """
        self._flush_scheduled = False
        if self._disconnected or not STATE.pending_acks:
            return
        try:
            with self.channel.conn_or_acquire() as client:
                self._send_acks(client)
        except (RedisError, OSError) as error:
            logger.warning("acknowledgements wait for the broker: %s", error)
            self._disconnected = True

    def _send_acks(self, client: Any) -> None:
        settled_at = self.channel.settled_at
        if tags := [tag for tag, since in STATE.pending_acks.items() if since >= settled_at]:
            with client.pipeline() as pipe:
                pipe.zrem(self.unacked_index_key, *tags)
                pipe.hdel(self.unacked_key, *tags)
                pipe.execute()
        STATE.pending_acks.clear()

    def adopt(self, messages: Iterable[Any]) -> None:
        """Hold the messages of a channel whose connection is gone; they count as received here."""
        for message in messages:
            message.channel = self.channel
            virtual.QoS.append(self, message, message.delivery_tag)

    def extend_visibility(self) -> None:
        """Send the pending acknowledgements, and extend the first batch of the held messages.

        :meth:`extend_some` extends the other batches.
        """
        with self._logged_refusals(), self.channel.conn_or_acquire() as client:
            self._send_acks(client)
            self._disconnected = False
        self._to_extend = list(self._delivered.keys() - self._dirty)
        self._to_extend += (tag for _, tag in self._postponed)
        self._batch_size = max(_BATCH_MIN, ceil(len(self._to_extend) / _BATCHES))
        self._extend_batch()

    def extend_all(self) -> None:
        """Extend all held messages now, since their timeouts ran on during an outage."""
        self.extend_visibility()
        while self._to_extend:
            self.extend_some()

    def extend_some(self) -> None:
        """Extend the next batch, if any is left: all at once would delay every job.

        Put postponed messages back, too.
        """
        self._requeue_due()
        if self._to_extend:
            self._extend_batch()

    def _extend_batch(self) -> None:
        batch = self._to_extend[-self._batch_size :]
        del self._to_extend[-self._batch_size :]
        if not STATE.suspended:
            with self._logged_refusals():
                before = time()
                now_s = float(self._run("extend_visibility", [self.unacked_index_key], batch))
                STATE.clock_ahead_s = (before + time()) / 2 - now_s
                STATE.extended_at = monotonic()

    @contextmanager
    def _logged_refusals(self) -> Iterator[None]:
        try:
            yield
        except ResponseError as error:
            logger.warning("messages that are held cannot be renewed: %s", error)

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int = 10) -> None:  # noqa: ARG002  # kombu's signature
        """Requeue expired messages, in every ``interval``-th call; ``num`` at most.

        The script also repairs the keys. An entry that no worker of ours has written goes to the
        queue and is parsed like any other message. On a read-only server this does nothing.
        """
        self._vrestore_count += 1
        if (self._vrestore_count - 1) % (interval or 1) or monotonic() < STATE.restores_from:
            return
        queues = self.channel.active_queues
        if not queues:
            return
        lists = [key for _, key in self.channel.lists_of(sorted(queues))]
        keys = [*self._requeue_keys(min(queues)), *lists]
        most = num or _REQUEUED_A_CALL
        try:
            for _ in range(_CALLS_A_TURN):
                search = self._searches % _CALLS_A_SEARCH == 0
                self._searches += 1
                more, failure, *deleted = self._run(
                    "requeue_expired", keys, [self.visibility_timeout, most, int(search)]
                )
                for key in deleted:
                    logger.warning("%a had a value that no worker writes, and was deleted", key)
                if failure:
                    logger.warning("messages of dead workers cannot be given back: %a", failure)
                if not more or num:
                    return
        except ResponseError as error:
            logger.warning("messages of dead workers cannot be given back: %s", error)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Requeue one message, to be served next, or last if ``leftmost``; see :meth:`requeue`."""
        self.requeue([tag], leftmost=leftmost, client=client)

    def restore_unacked(self, client: Any = None) -> None:
        """Requeue all held messages, to be served in the order in which they were received."""
        self.requeue(list(reversed(self._delivered)), client=client)
        self._delivered.clear()

    def requeue(self, tags: list[str], *, leftmost: bool = False, client: Any = None) -> None:
        """Put messages back on their lists, byte for byte; the last one is served first.

        Tags that are not held any more are skipped. Raises redis-py's ``ConnectionError`` also if
        the server refuses: kombu and Celery handle a refusal like a lost connection.
        """
        if not tags:
            return
        otherwise = min(self.channel.active_queues, default=names.QUEUE)
        keys = self._requeue_keys(otherwise)
        try:
            self._run("requeue", keys, ["LPUSH" if leftmost else "RPUSH", *tags], client)
        except ResponseError as error:
            raise RedisConnectionError(f"a message cannot be given back: {error}") from error

    def keys(self) -> tuple[str, str, str]:
        """Return the keys of the unacked hash, its index, and the hash of redelivered messages."""
        return self.unacked_key, self.unacked_index_key, f"{self.unacked_key}:redelivered"

    def _requeue_keys(self, otherwise: str) -> list[str]:
        unacked, index, redelivered = self.keys()
        return [unacked, index, otherwise, redelivered]

    def dead_letter(self, tag: str, job_id: str, reason: str) -> None:
        """Move a message that cannot be parsed from the unacked hash to the dead letters.

        Raises redis-py's errors.
        """
        keys = [self.unacked_key, self.unacked_index_key, names.DEAD_LETTERS]
        self._run("dead_letter", keys, [tag, self.channel.dead_letters_max, job_id, reason])

    def _run(self, name: str, keys: list[str], args: list[Any], client: Any = None) -> Any:
        with self.channel.conn_or_acquire(client) as connected:
            if name in self._cached:
                try:
                    return connected.evalsha(_SHA1[name], len(keys), *keys, *args)
                except NoScriptError:
                    self._cached.discard(name)
            reply = connected.eval(_SCRIPTS[name], len(keys), *keys, *args)
            self._cached.add(name)
            return reply
