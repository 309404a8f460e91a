"""The connection of readers, fed with bytes: messages, and replies to their own requests."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import AuthenticationError, InvalidResponse, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from berlin_worker.client.resp3 import Lost, Resp3Connection

pytestmark = pytest.mark.unit

SUBSCRIBED = b">3\r\n$9\r\nsubscribe\r\n$1\r\n%s\r\n:1\r\n"
MESSAGE = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n%d\r\n"


class Wire:
    """In place of redis-py's connection and of the writer in it."""

    def __init__(self) -> None:
        self._writer = self
        self.transport = self
        self.sent: list[bytes] = []
        self.aborted = False

    def write(self, packed: bytes) -> None:
        self.sent.append(packed)

    def abort(self) -> None:
        self.aborted = True

    async def disconnect(self) -> None:
        pass


class Ends:
    """A connection and what it has received."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.messages: list[tuple[bytes, bytes]] = []
        self.subscribed: list[bytes] = []
        self.refused: list[bytes] = []
        self.connection = Resp3Connection(
            self.wire,  # type: ignore[arg-type]
            lambda channel, data: self.messages.append((channel, data)),
            lambda channel, error: (self.refused if error else self.subscribed).append(channel),
        )


async def asked(connection: Resp3Connection, *commands: tuple[Any, ...]) -> asyncio.Task[list[Any]]:
    task = asyncio.create_task(connection.ask(commands))
    await asyncio.sleep(0)  # sent by then
    return task


@given(st.lists(st.integers(0, 400), max_size=8))
def test_replies_and_messages_are_distinguished_for_any_split_of_the_bytes(cuts):
    whole = (
        SUBSCRIBED % b"a"
        + MESSAGE % 1
        + b"*2\r\n$7\r\nmessage\r\n$1\r\na\r\n"  # the reply to HMGET: values of a record
        + MESSAGE % 2
        + b"*0\r\n"
        + b"_\r\n"
        + MESSAGE % 3
    )

    async def go() -> None:
        ends = Ends()
        ends.connection.subscribe([b"a"])
        first = await asked(ends.connection, ("HMGET", "r", "x", "y"), ("XRANGE", "l", "-", "+"))
        second = await asked(ends.connection, ("GET", "k"))
        places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
        for begin, end in pairwise(places):
            ends.connection.feed(whole[begin:end])
        assert await first == [[b"message", b"a"], []]
        assert await second == [None]
        assert ends.messages == [(b"a", b"1"), (b"a", b"2"), (b"a", b"3")]
        assert ends.subscribed == [b"a"]
        assert ends.connection.pushes

    asyncio.run(go())


async def test_error_is_the_reply_of_its_own_command_alone():
    ends = Ends()
    ends.connection.subscribe([b"a"])
    ends.connection.feed(SUBSCRIBED % b"a")
    answer = await asked(ends.connection, ("XRANGE", "s", "-", "+"), ("GET", "k"))
    ends.connection.feed(b"-WRONGTYPE another kind\r\n$1\r\nv\r\n")
    error, value = await answer
    assert isinstance(error, ResponseError)
    assert value == b"v"


async def test_channel_that_may_not_be_read_is_refused_alone():
    ends = Ends()
    ends.connection.subscribe([b"x", b"a"])
    ends.connection.unsubscribe([b"x", b"y"])
    ends.connection.feed(b"-NOPERM no such right\r\n" + SUBSCRIBED % b"a" + b"-NOPERM no\r\n" * 2)
    answer = await asked(ends.connection, ("GET", "k"))
    ends.connection.feed(b"$1\r\n1\r\n")
    assert (ends.refused, ends.subscribed) == ([b"x"], [b"a"])
    assert await answer == [b"1"]


async def test_subscription_that_fails_otherwise_ends_the_connection():
    ends = Ends()
    ends.connection.subscribe([b"a", b"b"])
    with pytest.raises(AuthenticationError):
        ends.connection.feed(b"-NOAUTH Authentication required\r\n")


async def test_reply_of_a_cancelled_request_is_dropped_and_the_next_request_gets_its_reply():
    ends = Ends()
    ends.connection.subscribe([b"a"])
    ends.connection.feed(SUBSCRIBED % b"a")
    first = await asked(ends.connection, ("GET", "k"))
    second = await asked(ends.connection, ("GET", "l"))
    first.cancel()
    await asyncio.sleep(0)
    ends.connection.feed(b"$1\r\n1\r\n$1\r\n2\r\n")
    assert await second == [b"2"]


async def test_pong_takes_its_turn_among_replies():
    ends = Ends()
    ends.connection.subscribe([b"a"])
    ends.connection.ping()
    answer = await asked(ends.connection, ("GET", "k"))
    ends.connection.unsubscribe([b"a"])
    ends.connection.feed(SUBSCRIBED % b"a" + b"+PONG\r\n$1\r\n1\r\n")
    assert await answer == [b"1"]


async def test_server_that_does_not_push_is_known_by_its_first_answer():
    ends = Ends()
    ends.connection.subscribe([b"a"])
    ends.connection.ping()
    plainly = (SUBSCRIBED % b"a" + MESSAGE % 1).replace(b">", b"*")
    ends.connection.feed(plainly + b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
    assert not ends.connection.pushes
    assert ends.messages == [(b"a", b"1")]


async def test_reply_without_a_request_ends_the_connection():
    with pytest.raises(RedisConnectionError, match="max number of clients"):
        Ends().connection.feed(b"-ERR max number of clients reached\r\n")


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n", b"*0\r\n", b">0\r\n", b"+OK\r\n"]
)
async def test_invalid_reply_ends_the_connection(data):
    with pytest.raises(InvalidResponse):
        Ends().connection.feed(data)


async def test_pushes_of_another_kind_are_ignored():
    ends = Ends()
    ends.connection.feed(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n")
    assert ends.messages == []


async def test_end_of_the_connection_fails_waiting_and_later_requests():
    ends = Ends()
    waiting = await asked(ends.connection, ("GET", "k"))
    await ends.connection.close()
    assert ends.wire.aborted  # whatever has not been sent yet
    with pytest.raises(Lost):
        await waiting
    with pytest.raises(RedisConnectionError):
        await ends.connection.ask([("GET", "k")])


async def test_transport_that_has_ended_is_a_lost_connection(monkeypatch):
    """As uvloop's raises, until the end of the connection has been noticed."""
    ends = Ends()

    def write(_: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

    monkeypatch.setattr(ends.wire, "write", write)
    with pytest.raises(RedisConnectionError):
        await ends.connection.ask([("GET", "k")])
