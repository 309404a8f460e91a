"""The messages that this worker holds: kept while it lives, acknowledged even after an outage.

Redis's own clock says since when a message is held, and when it goes back: those of workers differ.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import ceil
from time import monotonic, time
from typing import Any, ClassVar, Final

from celery.utils.log import get_logger
from kombu.asynchronous import get_event_loop
from kombu.transport import redis, virtual
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from berlin_schemas import names
from berlin_worker.storage.scripts import sha1, source

logger = get_logger(__name__)

_SCRIPTS: Final = {
    name: source(name, "unacked_entry", "dead_letter_entry")
    for name in ("extend_visibility", "requeue", "requeue_expired", "dead_letter")
}
_SHA1: Final = {name: sha1(script) for name, script in _SCRIPTS.items()}

_PARTS: Final = 8
"""In how many parts what is held is renewed, where it is much."""
_AT_LEAST: Final = 32
"""Messages of a part, where there are so many."""
_DUE_AT_ONCE: Final = 500
"""Messages that one call of the script gives back at most: Redis does nothing else meanwhile."""
_DUE_CALLS: Final = 40
"""Calls of a turn, for which the main thread does nothing else."""
_LOOKS_A_SEARCH: Final = 30
"""How often the due are looked for until, once, entries without an index are searched as well."""


class QoS(redis.QoS):
    """The messages that this worker holds. The script that takes them writes them down."""

    owed: ClassVar[set[str]] = set()
    """Tags of this process whose acknowledgement no connection has taken yet."""
    restores_from: ClassVar[float] = 0.0
    """When this process may give back what others hold; later after an outage, in which
    nobody could renew: the living have until then to do it."""
    hung: ClassVar[bool] = False
    """This process cannot work: it takes nothing, and keeps nothing from others."""
    clock_ahead_s: ClassVar[float] = 0.0
    """By how much the clock of this process is ahead of Redis's, as of the last :meth:`keep`."""
    _broken = False
    _settles = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unkept: list[str] = []
        self._kept_at_once = 0
        self._looks = 0
        self._known: set[str] = set()
        """Scripts that the server had."""

    def can_consume(self) -> bool:
        """Whether there is room for another message, and somebody to work on it."""
        return not self.hung and bool(super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        """Hold a message until it is acknowledged."""
        message._raw = None  # noqa: SLF001  # for kombu's own, which writes it down itself
        virtual.QoS.append(self, message, delivery_tag)

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

    def forget(self, delivery_tag: str) -> None:
        """Hold a message no longer: unless it is acknowledged, it goes back when its time is up."""
        if delivery_tag in self._delivered:
            virtual.QoS.ack(self, delivery_tag)

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
        self._keep_some()

    def keep_all(self) -> None:
        """The same at once: after an outage there is no time to lose."""
        self.keep()
        while self._unkept:
            self.extend_some()

    def extend_some(self) -> None:
        """Put off the return of a part of them: all at once would hold up every job."""
        if self._unkept:
            self._keep_some()

    def _keep_some(self) -> None:
        part = self._unkept[-self._kept_at_once :]
        del self._unkept[-self._kept_at_once :]
        if not self.hung:
            with self._refusals_told():
                before = time()
                now_s = float(self._run("extend_visibility", [self.unacked_index_key], part))
                QoS.clock_ahead_s = (before + time()) / 2 - now_s

    @contextmanager
    def _refusals_told(self) -> Iterator[None]:
        try:
            yield
        except ResponseError as error:
            logger.warning("messages that are held cannot be renewed: %s", error)

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int = 10) -> None:  # noqa: ARG002  # kombu's signature
        """Give back what a dead worker held, by every ``interval``-th call; ``num`` at most.

        A server that takes no writes does nothing. Whatever else stands in the keys, or is missing
        there, is mended: an entry that is none of ours goes to the queue, to be read like any other
        message.
        """
        self._vrestore_count += 1
        if (self._vrestore_count - 1) % (interval or 1) or monotonic() < self.restores_from:
            return
        queues = self.channel.active_queues
        if not queues:
            return
        keys = self._requeue_keys(min(queues))
        most = num or _DUE_AT_ONCE
        try:
            for _ in range(_DUE_CALLS):
                search = self._looks % _LOOKS_A_SEARCH == 0
                self._looks += 1
                more, failure, *odd = self._run(
                    "requeue_expired", keys, [self.visibility_timeout, most, int(search)]
                )
                for key in odd:
                    logger.warning("%a held what no worker wrote, and was deleted", key)
                if failure:
                    logger.warning("messages of dead workers cannot be given back: %a", failure)
                if not more or num:
                    return
        except ResponseError as error:
            logger.warning("messages of dead workers cannot be given back: %s", error)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Give one message back, to be served next, or last if ``leftmost``; see ``give_back``."""
        self.give_back([tag], leftmost=leftmost, client=client)

    def restore_unacked(self, client: Any = None) -> None:
        """Give all back that is held, to be served in the same order."""
        self.give_back(list(reversed(self._delivered)), client=client)
        self._delivered.clear()

    def give_back(self, tags: list[str], *, leftmost: bool = False, client: Any = None) -> None:
        """Put messages on the lists that they came from, as they came; the last is served first.

        What is not held any more is passed over. Raises redis-py's ``ConnectionError`` if the
        server refuses: a refusal is to the callers what a lost connection is.
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
        """Move a message that nobody can read to the dead letters, out of what is held.

        Raises what redis-py raises.
        """
        keys = [self.unacked_key, self.unacked_index_key, names.DEAD_LETTERS]
        self._run("dead_letter", keys, [tag, self.channel.dead_letters_max, job_id, reason])

    def _run(self, name: str, keys: list[str], args: list[Any], client: Any = None) -> Any:
        with self.channel.conn_or_acquire(client) as connected:
            if name in self._known:
                try:
                    return connected.evalsha(_SHA1[name], len(keys), *keys, *args)
                except NoScriptError:
                    self._known.discard(name)
            reply = connected.eval(_SCRIPTS[name], len(keys), *keys, *args)
            self._known.add(name)
            return reply
