"""The guarded channel, over fakes: messages, broadcasts and replies of any shape."""

import contextlib
import json
from queue import Empty
from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from berlin_worker.broker import guard
from berlin_worker.broker.guard import Guarded, Reserved

pytestmark = pytest.mark.unit


def message(text: str = "") -> bytes:
    info = {"exchange": "", "routing_key": "prompts"}
    properties = {"delivery_tag": "theirs", "delivery_info": info, "body_encoding": "base64"}
    return json.dumps({"body": text, "headers": {"id": "job-1"}, "properties": properties}).encode()


MESSAGE = message()


class Channel(Guarded):
    """The parts of kombu's channel that the guard uses; ``deliver`` handles each message."""

    keyprefix_queue, sep = "_kombu.binding.%s", "\x06\x16"
    connection_errors = (RedisConnectionError, OSError)
    _in_listen = _in_poll = "a connection"

    def __init__(self, deliver=None, client=None, refusal=None):
        self.steps, self.made = [], 0
        self.refusal = refusal
        self.pool = "pool"
        self._of_test = client
        self.connection = SimpleNamespace(_deliver=deliver or self.delivered)
        index = SimpleNamespace(execute=lambda: None)
        self.qos = SimpleNamespace(
            _delivered={},
            _remove_from_indices=lambda tag: self.steps.append(("acknowledged", tag)) or index,
            release=lambda tag: self.steps.append(("released", tag)),
            dead_letter=self.dead_letter,
        )
        self._queue_cycle = SimpleNamespace(rotate=lambda queue: None)

    def delivered(self, message, queue):
        self.steps.append(("delivered", queue))

    def dead_letter(self, tag, job_id, reason):
        if self.refusal:
            raise self.refusal
        self.steps.append(("dead", tag, job_id, reason))

    def _create_client(self):
        self.made += 1
        return self._of_test or SimpleNamespace(connection_pool=self.pool)

    @property
    def client(self):
        return self._of_test

    def _flush_brpop_reauth(self):
        self.steps.append("flushed")

    def _handle_message(self, client, response):
        return dict(zip(("type", "channel", "data"), response, strict=True))

    def _deliver_fanout_message(self, message, exchange):
        if message["body"] == "break":
            raise KeyError("break")
        if message["body"] == "lost":
            raise RedisConnectionError("lost")
        return exchange


def raises(error):
    def deliver(message, queue):
        raise error

    return deliver


@pytest.fixture
def unreadable(monkeypatch):
    found = []
    monkeypatch.setattr(guard.STATE, "on_unreadable", found.append)
    return found


def test_closed_channel_is_a_lost_connection():
    channel = Channel()
    channel.connection = None
    with pytest.raises(RedisConnectionError), channel.conn_or_acquire():
        pass


def test_one_client_is_made_for_each_pool():
    channel = Channel()
    for pool in ("pool", "pool", "other", "other"):
        channel.pool = pool
        with channel.conn_or_acquire() as client:
            assert client.connection_pool == pool
    assert channel.made == 2
    with channel.conn_or_acquire("given") as client:
        assert client == "given"


def test_member_that_is_no_binding_is_left_out():
    members = {b"key\x06\x16pattern\x06\x16queue", b"garbage", b"a\x06\x16b"}
    channel = Channel(client=SimpleNamespace(connection_pool="pool", smembers=lambda key: members))
    assert channel.get_table("celery") == [("key", "pattern", "queue")]


def test_message_without_an_acknowledgement_is_removed_at_once(unreadable):
    channel = Channel()
    channel._deliver(Reserved("prompts", "tag", MESSAGE, redelivered=True))
    assert channel.steps == [("delivered", "prompts"), ("acknowledged", "tag")]
    channel.qos._delivered["kept"] = 1
    channel._deliver(Reserved("prompts", "kept", MESSAGE, redelivered=False))
    assert channel.steps[2:] == [("delivered", "prompts")]
    assert unreadable == []


def test_message_that_cannot_be_handled_becomes_a_dead_letter(unreadable):
    channel = Channel(raises(ValueError("no date")))
    channel._deliver(Reserved("prompts", "tag", MESSAGE, redelivered=False))
    channel._deliver(Reserved("prompts", "other", b"garbage", redelivered=False))
    assert channel.steps == [
        ("released", "tag"),
        ("dead", "tag", "job-1", "undecodable"),
        ("released", "other"),
        ("dead", "other", "", "not_a_message"),
    ]
    assert unreadable == ["job-1", ""]


def test_dead_letter_that_the_server_refuses_is_logged(unreadable, caplog):
    channel = Channel(refusal=ResponseError("OOM"))
    channel._deliver(Reserved("prompts", "tag", b"garbage", redelivered=False))
    assert "cannot be moved" in caplog.text
    assert unreadable == []


def test_lost_connection_keeps_the_message():
    channel = Channel(raises(RedisConnectionError("gone")))
    with pytest.raises(RedisConnectionError):
        channel._deliver(Reserved("prompts", "tag", MESSAGE, redelivered=False))
    assert channel.steps == []


def received(response):
    def parse_response():
        if isinstance(response, Exception):
            raise response
        return response

    return SimpleNamespace(parse_response=parse_response)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"PONG", None),
        ((b"subscribe", b"c", 1), None),
        ((b"pmessage", b"c", b""), None),
        ((b"message", b"/0.celery.pidbox", MESSAGE), "celery.pidbox"),
        ((b"pmessage", b"celeryev/worker.x", MESSAGE), "celeryev"),
        ((b"message", b"c", b"garbage"), None),
        ((b"message", b"\xff", b"{}"), None),
        ((b"message", b"c", message("break")), None),
    ],
)
def test_broadcast_is_delivered_or_dropped(response, expected):
    assert Channel()._receive_one(received(response)) == expected


def test_lost_connection_of_broadcasts_is_raised():
    channel = Channel()
    with pytest.raises(RedisConnectionError):
        channel._receive_one(received((b"message", b"c", message("lost"))))
    assert channel._in_listen
    with pytest.raises(RedisConnectionError):
        channel._receive_one(received(RedisConnectionError("gone")))
    assert channel._in_listen is None


@pytest.mark.parametrize(
    ("popped", "expected"),
    [
        (None, Empty),
        ((b"replies\x06\x163", b"garbage"), Empty),
        (RedisConnectionError("gone"), RedisConnectionError),
        ((b"replies\x06\x163", MESSAGE), None),
    ],
)
def test_reply_is_delivered_or_raises_what_kombu_expects(popped, expected):
    steps = []
    client = received(popped)
    parse = client.parse_response
    client.parse_response = lambda *_, **__: parse()
    client.connection = SimpleNamespace(disconnect=lambda: steps.append("disconnected"))
    channel = Channel(client=client)
    with contextlib.nullcontext() if expected is None else pytest.raises(expected):
        assert channel._pop_read()
    assert channel._in_poll is None
    assert channel.steps[0] == "flushed"
    assert steps == (["disconnected"] if expected is RedisConnectionError else [])
    assert (("delivered", "replies") in channel.steps) == (expected is None)
