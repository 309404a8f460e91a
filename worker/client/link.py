"""One connection for messages and for commands: RESP3 tells what is pushed from what was asked.

redis-py connects, with TLS and login, but reads either messages or replies, one at a time:
1.7 µs of CPU a message, where what has arrived is read as a whole here: 0.8 µs.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

_CONNECT_TIMEOUT_S: Final = 10.0
_READ_BYTES: Final = 64 * 1024
_NO_MORE: Final = object()
_IN_TURN: Final = {b"subscribe", b"unsubscribe", b"pong"}
"""What answers a command, though it may come as messages do."""

Command = tuple[Any, ...]
"""Its name and arguments: ``str``, ``bytes`` or ``int``."""


class Lost(RedisConnectionError):
    """The connection ended after the commands were sent, and before the last reply."""


class _Asked:
    """Commands that were sent together, and what they have been answered so far."""

    __slots__ = ("answer", "left", "replies", "subscribes")

    def __init__(self, count: int, *, subscribes: bool) -> None:
        self.answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.left = count
        self.replies: list[Any] = []
        self.subscribes = subscribes


class Link:
    """Commands out, replies and messages in; for one life of one connection.

    ``on_message`` is called with the channel and the data, ``on_subscribed`` with the channel
    whose SUBSCRIBE has been confirmed; both must be quick and raise nothing.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[bytes], None],
    ) -> None:
        self._connection: Any = connection  # redis-py's own methods are not all typed
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._asked: deque[_Asked] = deque()
        self._lost = False
        self._parser = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=_NO_MORE,
        )
        self.pushes = False
        """Whether messages come as pushes, so that :meth:`ask` may be used. To be known from
        the first confirmed SUBSCRIBE on: a server may take HELLO and not keep to it."""
        self.heard = False
        """Whether anything has come since this was last set to false."""

    async def connect(self) -> None:
        """Connect; raises redis-py's errors and ``TimeoutError``."""
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await self._connection.connect()
            await self._connection.send_command("HELLO", 3)
            with contextlib.suppress(ResponseError):  # a server, or a proxy, without RESP3
                await self._connection.read_response()

    async def serve(self) -> None:
        """Read until the connection ends, and raise what ended it."""
        stream: asyncio.StreamReader = self._connection._reader  # noqa: SLF001  # see above
        while data := await stream.read(_READ_BYTES):
            self.heard = True
            self.feed(data)
        raise RedisConnectionError("the server has closed the connection")

    def feed(self, data: bytes) -> None:
        """Take what has arrived. Raises what ends the connection: the server refuses a SUBSCRIBE,
        or says what nobody has asked for."""
        self._parser.feed(data)
        while (reply := self._parser.gets()) is not _NO_MORE:
            pushed = type(reply) is hiredis.PushNotification
            if not pushed and (self.pushes or type(reply) is not list):
                self._answered(reply)
            elif reply[0] == b"message":
                self._on_message(reply[1], reply[2])
            elif reply[0] in _IN_TURN:
                self._answered(reply)
                if reply[0] == b"subscribe":
                    self.pushes = pushed
                    self._on_subscribed(reply[1])

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send ``commands`` together; an error is in its place among the replies.

        Raises :class:`Lost` where the connection ends first.
        """
        return await (await self._send(commands, len(commands)))

    async def subscribe(self, channels: Sequence[bytes]) -> None:
        """Send SUBSCRIBE; each of the channels is confirmed by itself."""
        await self._send([("SUBSCRIBE", *channels)], len(channels), subscribes=True)

    async def unsubscribe(self, channels: Sequence[bytes]) -> None:
        """Send UNSUBSCRIBE."""
        await self._send([("UNSUBSCRIBE", *channels)], len(channels))

    async def ping(self) -> None:
        """Make a server that is there say something."""
        await self._send([("PING",)], 1)

    async def close(self) -> None:
        """Disconnect; whoever waits for a reply gets :class:`Lost`."""
        self._lost = True
        for asked in self._asked:
            if not asked.answer.done():
                asked.answer.set_exception(Lost("the connection ended before the reply"))
                asked.answer.exception()  # nobody need be waiting for it
        with contextlib.suppress(RedisError):
            await self._connection.disconnect()

    async def _send(
        self, commands: Iterable[Command], replies: int, *, subscribes: bool = False
    ) -> asyncio.Future[list[Any]]:
        if self._lost:
            raise RedisConnectionError("the connection has ended")
        asked = _Asked(replies, subscribes=subscribes)
        self._asked.append(asked)
        # Written before this waits for anything, so in the order in which answers are awaited.
        packed = b"".join(map(hiredis.pack_command, commands))
        await self._connection.send_packed_command(packed, check_health=False)
        return asked.answer

    def _answered(self, reply: Any) -> None:
        asked = self._asked[0] if self._asked else None
        if isinstance(reply, Exception) and (asked is None or asked.subscribes):
            raise reply
        if asked is None:
            raise RedisConnectionError("a reply that nobody has asked for")
        asked.replies.append(reply)
        asked.left -= 1
        if not asked.left:
            self._asked.popleft()
            if not asked.answer.done():
                asked.answer.set_result(asked.replies)
