"""One connection for all readers of a client: their channels, and their reads of the logs.

A reader opens a :class:`Subscription` for its channel, waits until the subscription is
acknowledged (sending SUBSCRIBE is not enough: a message published right after it is
lost), and takes its messages from there. A reader that does not keep up, and every
reader after the connection was lost, gets a signal in their place: the log has all events.

Reads of the logs use this connection, too. If a server or a proxy does not push messages
(RESP3), they use other connections.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from berlin_worker.client.channel_registry import ChannelRegistry
from berlin_worker.client.resp3 import Resp3Connection, fail
from berlin_worker.storage.connections import TIMEOUT_S, Command
from berlin_worker.storage.redis_errors import is_temporary, refusal

logger = logging.getLogger(__name__)

_PING_EVERY_S: Final = 2.5
_SILENT_INTERVALS: Final = 4
"""After so many intervals without even a PONG, a connection counts as half open and is replaced.
They are counted, not timed: a client that was busy itself would measure a silence."""
_BACKOFF_S: Final = (0.05, 2.0)
_TICK_S: Final = 0.5


class SubscriptionManager(ChannelRegistry):
    """Subscribes by reference count and hands messages to subscriptions; reconnects by itself."""

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        ask_beside: Callable[[Sequence[Command]], Awaitable[list[Any]]],
        *,
        buffer_bytes: int,
        reread_after_s: float,
    ) -> None:
        super().__init__(buffer_bytes=buffer_bytes)
        self._connect = connect
        self._ask_beside = ask_beside
        self._reread_after_s = reread_after_s
        self._changed = asyncio.Event()
        self._changes: set[bytes] = set()
        # Of the present connection: the channels that are subscribed after the commands sent so
        # far, and how many SUBSCRIBEs of each channel have no answer yet.
        self._subscribed: set[bytes] = set()
        self._unanswered: Counter[bytes] = Counter()
        # The connection for ask(), or the error by which none exists. It is set once it has
        # answered a SUBSCRIBE: this answer shows whether it pushes messages.
        self._usable: asyncio.Future[Resp3Connection] = self._loop.create_future()
        self._connection: Resp3Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether there was a connection for :meth:`ask` when it was last checked."""
        return self._usable.done() and self._usable.exception() is None

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Return a reply for each of ``commands``, in their order; a reply may be an error.

        Waits up to 5 s for the first subscription. Without a connection it raises the error of the
        last attempt to connect: one of redis-py's, or ``OSError``. Raises
        :class:`~berlin_worker.client.resp3.Lost` if the connection ends before the replies.
        """
        async with asyncio.timeout(TIMEOUT_S):
            connection = await asyncio.shield(self._usable)
        return await (connection.ask(commands) if connection.pushes else self._ask_beside(commands))

    async def aclose(self) -> None:
        """Close the connection; readers that still wait get a ``ClientError``."""
        self._close_readers()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _added(self, name: bytes) -> None:
        self._change(name)

    def _removed(self, name: bytes) -> None:
        self._change(name)

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="berlin-client-pubsub")
            self._tick()

    def _change(self, name: bytes) -> None:
        self._changes.add(name)
        self._changed.set()

    def _tick(self) -> None:
        # One timer for all readers, so that none of them needs one for each event.
        long_ago = self._loop.time() - self._reread_after_s
        for channel in self._channels.values():
            for subscription in channel.subscriptions:
                if 0.0 < subscription.since < long_ago:
                    subscription.wake_idle()
        self._timer = self._loop.call_later(min(_TICK_S, self._reread_after_s), self._tick)

    async def _run(self) -> None:
        shortest_s, longest_s = _BACKOFF_S
        pause_s = shortest_s
        while True:
            connection = self._connection = self._new_connection()
            try:
                await connection.connect()
                pause_s = shortest_s
                await self._serve(connection)
            except AuthenticationError as error:
                self._refuse(error)
            except (RedisError, OSError) as error:
                if refusal(error):  # waiting does not help: the readers get it at once
                    self._refuse(error)
                else:
                    logger.warning("the readers' connection is lost (%s)", type(error).__name__)
                    self._fail_usable(
                        error if is_temporary(error) else RedisConnectionError(str(error))
                    )
            except Exception as error:
                logger.exception("the readers' connection has failed: reconnecting")
                self._fail_usable(RedisConnectionError(str(error)))
            finally:
                await connection.close()
            self._on_lost()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
            pause_s = min(pause_s * 2, longest_s)

    def _new_connection(self) -> Resp3Connection:
        return Resp3Connection(self._connect(), self._deliver, self._on_subscribed)

    def _on_lost(self) -> None:
        """Hook: the connection has ended, or could not be made."""

    async def _serve(self, connection: Resp3Connection) -> None:
        self._subscribed.clear()
        self._unanswered.clear()
        self._changes.update(self._channels)
        self._changed.set()
        work = [connection.serve(), self._write(connection), self._ping_when_silent(connection)]
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def _deliver(self, name: bytes, data: bytes) -> None:
        channel = self._channels.get(name)
        if channel is not None:
            for subscription in channel.subscriptions:
                subscription.put(data)

    async def _write(self, connection: Resp3Connection) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            changes, self._changes = self._changes, set()
            wanted = {name for name in changes if name in self._channels}
            gone = (changes - wanted) & self._subscribed
            self._subscribed -= gone
            connection.unsubscribe(gone)
            for name in wanted & self._subscribed:
                # A reader closed the channel and another opened it, before a command was sent.
                if not self._unanswered[name]:
                    self._acknowledge(name)
            new = wanted - self._subscribed
            self._subscribed |= new
            self._unanswered.update(new)
            connection.subscribe(new)

    async def _ping_when_silent(self, connection: Resp3Connection) -> None:
        quiet = 0
        while True:
            await asyncio.sleep(_PING_EVERY_S)
            quiet = 0 if connection.received else quiet + 1
            connection.received = False
            if quiet == _SILENT_INTERVALS:
                raise RedisConnectionError("the server has gone silent")
            if quiet:
                connection.ping()

    def _on_subscribed(self, name: bytes, refused: NoPermissionError | None) -> None:
        if refused is None and not self.usable:
            assert self._connection is not None  # for mypy: it is the one that answers
            self._pending_usable().set_result(self._connection)
        # If SUBSCRIBE, UNSUBSCRIBE and SUBSCRIBE follow each other fast, only the last
        # reply confirms that the channel is subscribed.
        self._unanswered[name] -= 1
        if self._unanswered[name] <= 0:
            del self._unanswered[name]
            if name in self._subscribed:
                self._acknowledge(name, refused)

    def _acknowledge(self, name: bytes, refused: NoPermissionError | None = None) -> None:
        channel = self._channels.get(name)
        if refused is not None:
            self._subscribed.discard(name)
        if channel is None:
            return
        if channel.acknowledged.done():  # a new connection: nothing came in between
            for subscription in channel.subscriptions:
                subscription.overflow()
        elif refused is not None:
            fail(channel.acknowledged, refused)
        else:
            channel.acknowledged.set_result(None)

    def _refuse(self, error: Exception) -> None:
        logger.warning("Redis refuses the readers' connection: %s", refusal(error) or error)
        for channel in self._channels.values():
            if not channel.acknowledged.done():
                fail(channel.acknowledged, error)
                channel.acknowledged = self._loop.create_future()
        self._fail_usable(error)

    def _fail_usable(self, error: Exception) -> None:
        fail(self._pending_usable(), error)

    def _pending_usable(self) -> asyncio.Future[Resp3Connection]:
        """Return ``_usable`` if it is pending, else a new one."""
        if self._usable.done():
            self._usable = self._loop.create_future()
        return self._usable
