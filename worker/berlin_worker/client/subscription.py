"""The messages that wait for one reader, or a signal in their place."""

import asyncio
import enum

from berlin_worker.client.values import CLOSED
from berlin_worker.errors import ClientError


class Signal(enum.Enum):
    """Signals that a subscription yields in place of messages."""

    OVERFLOW = "messages may have been lost: read the log"
    IDLE = "nothing came for a while"


class Subscription:
    """The messages for one reader; bounded. Made by ``SubscriptionManager.open``."""

    __slots__ = (
        "_bytes",
        "_closed",
        "_idle",
        "_limit",
        "_messages",
        "_overflown",
        "_waiter",
        "channel",
        "since",
    )

    def __init__(self, channel: bytes, limit_bytes: int) -> None:
        self.channel = channel
        self.since = 0.0
        """When the reader began to wait (event loop's clock); 0 while it does not."""
        self._limit = limit_bytes
        self._messages: list[bytes] = []
        self._bytes = 0
        self._overflown = False
        self._idle = False
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, data: bytes) -> None:
        """Add a message; a subscription that is full drops all its messages and signals that."""
        if self._overflown:
            return
        self._bytes += len(data)
        if self._bytes > self._limit:
            self.overflow()
            return
        self._messages.append(data)
        self._wake()

    def overflow(self) -> None:
        """Note that messages may have been lost."""
        self._messages, self._bytes, self._overflown = [], 0, True
        self._wake()

    def close(self) -> None:
        """Note that the client was closed."""
        self._closed = True
        self._wake()

    def wake_idle(self) -> None:
        """Note that nothing has come for a while."""
        self._idle = True
        self._wake()

    async def take(self) -> list[bytes] | Signal:
        """Return all messages, as soon as there is one, or a signal. Safe to cancel.

        Raises ``ClientError`` once the client is closed.
        """
        while not (self._messages or self._overflown or self._idle or self._closed):
            loop = asyncio.get_running_loop()
            self.since = loop.time()
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter, self.since = None, 0.0
        if self._closed:
            raise ClientError(CLOSED)
        self._idle = False
        if self._overflown:
            self._overflown = False
            return Signal.OVERFLOW
        messages, self._messages, self._bytes = self._messages, [], 0
        return messages or Signal.IDLE

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Channel:
    """The subscriptions of one channel, and whether the server has acknowledged it."""

    __slots__ = ("acknowledged", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
