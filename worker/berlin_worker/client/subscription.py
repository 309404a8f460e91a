"""What waits for one reader: messages of its channel, or a notice in their place."""

import asyncio
import enum

from berlin_worker.client.values import CLOSED
from berlin_worker.errors import ClientError


class Notice(enum.Enum):
    """What a mailbox gives in place of messages."""

    MISSED = "messages may have been lost: read the log"
    QUIET = "nothing came for a while"


class Mailbox:
    """The messages for one reader; bounded. Made by ``SubscriptionManager.open``."""

    __slots__ = (
        "_bytes",
        "_limit",
        "_messages",
        "_missed",
        "_quiet",
        "_shut",
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
        self._missed = False
        self._quiet = False
        self._shut = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, data: bytes) -> None:
        """Add a message; a mailbox that is full forgets all it holds and says so."""
        if self._missed:
            return
        self._bytes += len(data)
        if self._bytes > self._limit:
            self.miss()
            return
        self._messages.append(data)
        self._wake()

    def miss(self) -> None:
        """Note that messages may have been lost."""
        self._messages, self._bytes, self._missed = [], 0, True
        self._wake()

    def shut(self) -> None:
        """Note that the client was closed."""
        self._shut = True
        self._wake()

    def nudge(self) -> None:
        """Note that nothing has come for a while."""
        self._quiet = True
        self._wake()

    async def take(self) -> list[bytes] | Notice:
        """All messages, as soon as there is one, or a notice. Safe to cancel.

        Raises ``ClientError`` once the client is closed.
        """
        while not (self._messages or self._missed or self._quiet or self._shut):
            loop = asyncio.get_running_loop()
            self.since = loop.time()
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter, self.since = None, 0.0
        if self._shut:
            raise ClientError(CLOSED)
        self._quiet = False
        if self._missed:
            self._missed = False
            return Notice.MISSED
        messages, self._messages, self._bytes = self._messages, [], 0
        return messages or Notice.QUIET

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
