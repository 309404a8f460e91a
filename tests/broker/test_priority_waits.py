"""Waits for the further lists of a queue: with and without an event loop, refused and lost."""

import contextlib

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from berlin_worker.broker import priority_waits
from berlin_worker.broker.priority_waits import PriorityWaits, WaitEnder

pytestmark = pytest.mark.unit


class Connection:
    """A connection of redis-py; an ``Exception`` among ``replies`` is raised."""

    def __init__(self, *replies, fd=7):
        self.replies, self.sent, self.disconnected = list(replies), [], 0
        self._sock = self
        self.fd = fd

    def fileno(self):
        return self.fd

    def connect(self):
        if self.replies == ["away"]:
            raise RedisConnectionError("away")

    def pack_command(self, *command):
        return command

    def send_packed_command(self, command, *, check_health):
        self.sent.append(command)

    def send_command(self, *command):
        self.sent.append(command)

    def read_response(self):
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def disconnect(self):
        self.disconnected += 1


class Hub:
    def __init__(self):
        self.readers = {}

    def add_reader(self, fd, read, key):
        self.readers[fd] = (read, key)

    def remove_reader(self, fd):
        self.readers.pop(fd)

    def remove(self, fd):
        self.readers.pop(fd)

    def read(self, fd=7):
        read, key = self.readers[fd]
        read(key)


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setattr(priority_waits, "get_event_loop", lambda: hub)
    return hub


def test_message_wakes_the_channel_and_the_wait_starts_again(hub):
    connection, woken = Connection(b"message", None), []
    waits = PriorityWaits(lambda: connection, lambda: woken.append(1))
    waits.start(["queue3"])
    waits.start(["queue3"])  # it waits already
    assert connection.sent == [("BLMOVE", "queue3", "queue3", "RIGHT", "RIGHT", 0)]
    hub.read()
    assert (woken, hub.readers) == ([1], {})
    waits.start(["queue3"])
    hub.read()
    assert woken == [1]  # the wait has ended without a message
    waits.start(["queue3"])
    waits.close()
    assert (connection.disconnected, hub.readers) == (1, {})


@pytest.mark.parametrize(
    ("error", "pause_s"), [(RedisConnectionError("gone"), 10), (ResponseError("NOPERM"), 300)]
)
def test_lost_wait_is_tried_again_after_a_while(hub, monkeypatch, error, pause_s):
    now = [1000.0]
    monkeypatch.setattr(priority_waits, "monotonic", lambda: now[0])
    made = []

    def connect():
        made.append(Connection(error))
        return made[-1]

    waits = PriorityWaits(connect, lambda: None)
    waits.start(["queue3"])
    hub.read()
    assert (made[0].disconnected, hub.readers) == (1, {})
    now[0] += pause_s - 0.1
    waits.start(["queue3"])
    assert len(made) == 1
    now[0] += 0.2
    waits.start(["queue3"])
    assert len(made) == 2


def test_server_that_is_away_ends_the_start(hub):
    connection = Connection("away")
    waits = PriorityWaits(lambda: connection, lambda: None)
    waits.start(["queue3", "queue6"])
    assert (connection.sent, connection.disconnected, hub.readers) == ([], 1, {})


def test_channel_without_an_event_loop_waits_for_nothing(monkeypatch):
    monkeypatch.setattr(priority_waits, "get_event_loop", lambda: None)
    PriorityWaits(pytest.fail, pytest.fail).start(["queue3"])


class Client:
    def __init__(self, error=None):
        self.error, self.unblocked = error, []

    def client_unblock(self, connection_id):
        if self.error:
            raise self.error
        self.unblocked.append(connection_id)


def test_wait_is_ended_by_the_id_of_its_connection(caplog):
    ender, connection, client = WaitEnder(), Connection(41), Client()
    ender.end(pytest.fail)  # nothing waits
    ender.identify(connection)
    ender.identify(connection)  # asks once for each socket
    assert connection.sent == [("CLIENT", "ID")]
    ender.end(lambda: contextlib.nullcontext(client))
    assert client.unblocked == [41]
    ender.end(lambda: contextlib.nullcontext(Client(OSError("gone"))))
    assert "found a second late" in caplog.text
    ender.end(pytest.fail)  # it is not tried again


def test_server_that_refuses_the_id_leaves_the_wait_as_it_is():
    ender = WaitEnder()
    ender.identify(Connection(ResponseError("NOPERM")))
    ender.end(pytest.fail)
