"""One connection for all readers of a client: their channels, and what they ask of the logs.

A reader opens a :class:`Mailbox` for its channel, waits until the subscription is
acknowledged (sending SUBSCRIBE is not enough: a message published right after it is
lost), and takes its messages from there. A reader that does not keep up, and every
reader after the connection was lost, gets a notice in their place: the log has it all.

What is asked goes over the same connection, beside the subscriptions; where a server or a
proxy does not push messages (RESP3), over others.
"""

import asyncio
import contextlib
import logging
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from berlin_worker.client.resp3 import Link, fail
from berlin_worker.client.subscription import Mailbox
from berlin_worker.client.values import CLOSED
from berlin_worker.errors import ClientError
from berlin_worker.storage.connections import TIMEOUT_S, Command
from berlin_worker.storage.redis_errors import is_temporary, refusal

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 2.5
_LOOKS: Final = 4
"""A connection on which not even a PONG has come for so many looks is half open: a new one is
made. Counted, not timed, so that a client that was busy itself does not take it for silence."""
_BACKOFF_S: Final = (0.05, 2.0)
_TICK_S: Final = 0.5


class _Channel:
    __slots__ = ("acknowledged", "mailboxes")

    def __init__(self) -> None:
        self.mailboxes: set[Mailbox] = set()
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class SubscriptionManager:
    """Subscribes by reference count and hands messages to mailboxes; reconnects by itself."""

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        ask_beside: Callable[[Sequence[Command]], Awaitable[list[Any]]],
        *,
        buffer_bytes: int,
        reread_after_s: float,
    ) -> None:
        self._connect = connect
        self._ask_beside = ask_beside
        self._buffer_bytes = buffer_bytes
        self._reread_after_s = reread_after_s
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._channels: dict[bytes, _Channel] = {}
        self._changed = asyncio.Event()
        self._changes: set[bytes] = set()
        # Of the present connection: what the commands sent so far leave subscribed, and how
        # many SUBSCRIBEs of a channel have no answer yet.
        self._subscribed: set[bytes] = set()
        self._unanswered: Counter[bytes] = Counter()
        # The connection to ask, once it has answered a SUBSCRIBE, for only then it is known
        # whether it pushes; or why there is none.
        self._usable: asyncio.Future[Link] = self._loop.create_future()
        self._link: Link | None = None
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def here(self) -> bool:
        """Whether the caller runs in the event loop, and the process, of this hub."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        return loop is self._loop and os.getpid() == self._pid

    def open(self, channel: str) -> Mailbox:
        """A mailbox for ``channel``; close it with :meth:`close`.

        Raises ``ClientError`` once the client is closed.
        """
        if self._closed:
            raise ClientError(CLOSED)
        mailbox = Mailbox(channel.encode(), self._buffer_bytes)
        if mailbox.channel not in self._channels:
            self._channels[mailbox.channel] = _Channel()
            self._change(mailbox.channel)
        self._channels[mailbox.channel].mailboxes.add(mailbox)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="berlin-client-pubsub")
            self._tick()
        return mailbox

    async def acknowledged(self, mailbox: Mailbox) -> None:
        """Wait until the server has acknowledged the subscription of ``mailbox``.

        Raises Redis' ``AuthenticationError`` or ``NoPermissionError``: waiting is in vain.
        """
        await asyncio.shield(self._channels[mailbox.channel].acknowledged)

    @property
    def usable(self) -> bool:
        """Whether :meth:`ask` would be answered, as far as is known."""
        return self._usable.done() and self._usable.exception() is None

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to ``commands``, as they come; an error is in its place among them.

        Waits for the first channel to be subscribed, 5 s at the most. While the connection is
        away it fails at once, by what the last attempt to connect has met. Raises redis-py's
        errors and ``OSError``, :class:`~berlin_worker.client.resp3.Lost` where the connection ended
        before the replies.
        """
        async with asyncio.timeout(TIMEOUT_S):
            link = await asyncio.shield(self._usable)
        return await (link.ask(commands) if link.pushes else self._ask_beside(commands))

    def close(self, mailbox: Mailbox) -> None:
        """No further messages for ``mailbox``; the last one of its channel unsubscribes."""
        channel = self._channels.get(mailbox.channel)
        if channel is None:
            return
        channel.mailboxes.discard(mailbox)
        if not channel.mailboxes:
            channel.acknowledged.cancel()
            del self._channels[mailbox.channel]
            self._change(mailbox.channel)

    def discard(self, mailbox: Mailbox) -> None:
        """:meth:`close` from any thread, also after the event loop is gone."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so is the connection
            self._loop.call_soon_threadsafe(self.close, mailbox)

    async def aclose(self) -> None:
        """Close the connection; readers that still wait get a ``ClientError``."""
        self._closed = True
        for channel in self._channels.values():
            fail(channel.acknowledged, ClientError(CLOSED))
            for mailbox in channel.mailboxes:
                mailbox.shut()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _change(self, name: bytes) -> None:
        self._changes.add(name)
        self._changed.set()

    def _tick(self) -> None:
        # One timer for all readers, so that none of them needs one for each event.
        long_ago = self._loop.time() - self._reread_after_s
        for channel in self._channels.values():
            for mailbox in channel.mailboxes:
                if 0.0 < mailbox.since < long_ago:
                    mailbox.nudge()
        self._timer = self._loop.call_later(min(_TICK_S, self._reread_after_s), self._tick)

    async def _run(self) -> None:
        shortest_s, longest_s = _BACKOFF_S
        pause_s = shortest_s
        while True:
            link = self._link = Link(self._connect(), self._deliver, self._answer)
            try:
                await link.connect()
                pause_s = shortest_s
                await self._serve(link)
            except AuthenticationError as error:
                self._refuse(error)
            except (RedisError, OSError) as error:
                if refusal(error):  # waiting does not help: the readers get it at once
                    self._refuse(error)
                else:
                    logger.warning("the readers' connection is lost (%s)", type(error).__name__)
                    self._give_up(
                        error if is_temporary(error) else RedisConnectionError(str(error))
                    )
            except Exception as error:
                logger.exception("the readers' connection has failed: reconnecting")
                self._give_up(RedisConnectionError(str(error)))
            finally:
                await link.close()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
            pause_s = min(pause_s * 2, longest_s)

    async def _serve(self, link: Link) -> None:
        self._subscribed.clear()
        self._unanswered.clear()
        self._changes.update(self._channels)
        self._changed.set()
        work = [link.serve(), self._write(link), self._watch(link)]
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
            for mailbox in channel.mailboxes:
                mailbox.put(data)

    async def _write(self, link: Link) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            changes, self._changes = self._changes, set()
            wanted = {name for name in changes if name in self._channels}
            gone = (changes - wanted) & self._subscribed
            self._subscribed -= gone
            link.unsubscribe(gone)
            for name in wanted & self._subscribed:
                # Closed and opened again in between, without a command.
                if not self._unanswered[name]:
                    self._acknowledge(name)
            new = wanted - self._subscribed
            self._subscribed |= new
            self._unanswered.update(new)
            link.subscribe(new)

    async def _watch(self, link: Link) -> None:
        quiet = 0
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            quiet = 0 if link.heard else quiet + 1
            link.heard = False
            if quiet == _LOOKS:
                raise RedisConnectionError("the server has gone silent")
            if quiet:
                link.ping()

    def _answer(self, name: bytes, refused: NoPermissionError | None) -> None:
        if refused is None and not self.usable:
            assert self._link is not None  # for mypy: it is the one that answers
            self._news().set_result(self._link)
        # Where SUBSCRIBE, UNSUBSCRIBE and SUBSCRIBE follow each other fast, only the last
        # answer says that the channel is subscribed.
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
            for mailbox in channel.mailboxes:
                mailbox.miss()
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
        self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        fail(self._news(), error)

    def _news(self) -> asyncio.Future[Link]:
        """A fresh ``_usable``, or the one that is still waited for."""
        if self._usable.done():
            self._usable = self._loop.create_future()
        return self._usable
