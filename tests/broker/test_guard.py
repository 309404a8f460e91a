"""Errors while a message is handled: caused by the connection or by the message."""

import errno
import socket
import ssl

import pytest
from amqp.exceptions import ConnectionForced, NotFound
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from berlin_worker.broker.guard import is_lost_connection

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("gone"),
        RedisTimeoutError("slow"),
        ReadOnlyError("a replica"),
        ConnectionForced("closed"),
        NotFound("no queue"),
        BrokenPipeError(errno.EPIPE, "broken"),
        TimeoutError("slow"),
        socket.gaierror(socket.EAI_AGAIN, "no name"),
        ssl.SSLError(1, "no handshake"),
        OSError(errno.EHOSTUNREACH, "no route"),
    ],
)
def test_network_errors_are_lost_connections(error):
    assert is_lost_connection(error)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("id"),  # kombu counts it among the errors of a connection
        TypeError("unhashable"),
        ValueError("no date"),
        RecursionError("too deep"),
        OverflowError("too late"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no UTF-8"),
        OSError("odd"),
        OSError(errno.EOVERFLOW, "no clock can tell this"),
        AssertionError("odd"),
    ],
)
def test_errors_of_a_message_are_no_lost_connections(error):
    assert not is_lost_connection(error)
