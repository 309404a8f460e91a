"""Messages are reserved, held, requeued and dead-lettered by the same scripts on both servers."""

import pytest
import redis
from kombu import Connection, Exchange, Producer, Queue

from berlin_schemas import names
from berlin_worker.broker import reserve
from berlin_worker.broker.transport import RedisTransport
from tests.support.taker import QUEUE, Taker

pytestmark = pytest.mark.contract


@pytest.fixture
def server(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def connection(redis_url):
    with Connection(redis_url, transport=RedisTransport) as connection:
        yield connection


def test_message_is_held_from_reservation_to_acknowledgement(server, connection):
    send = Producer(connection.channel(), auto_declare=False).publish
    taker = Taker(connection)
    send("first", routing_key="prompts")
    send("urgent", routing_key="prompts", headers={names.FIRST: True})
    server.lpush("prompts", b"no message")
    send("low", routing_key="prompts", priority=6)
    taker.until(3)
    assert taker.got == ["urgent", "first", "low"]
    assert server.hlen("unacked") == server.zcard("unacked_index") == 3
    assert [entry[b"reason"] for _, entry in server.xrange(names.DEAD_LETTERS)] == [
        b"not_a_message"
    ]
    qos = taker.channel.qos
    qos.extend_visibility()
    first, second, _ = qos._delivered
    taker.channel.basic_ack(first)
    taker.channel.basic_reject(second, requeue=True)
    taker.until(4)
    qos.restore_unacked()
    taker.until(6)
    assert sorted(taker.got[3:]) == ["first", "first", "low"]
    assert taker.redelivered == [False, False, False, True, True, True]
    assert server.hlen("unacked") == server.zcard("unacked_index") == 2
    qos.visibility_timeout = -1
    qos.restore_visible(num=None, interval=1)
    assert server.exists("unacked", "unacked_index") == 0


def test_large_messages_are_reserved_a_few_at_a_time(server, connection, monkeypatch):
    monkeypatch.setattr(reserve, "_ENOUGH_BYTES", 400)
    channel = connection.channel()
    for size in (10, 300, 300, 300, 2000, 2000, 10):
        server.lpush("prompts", b"x" * size)
    channel._lists = channel.lists_of(["prompts"])
    replies = []
    while server.exists("prompts"):
        more, *fields = server.eval(reserve._SCRIPT, *channel._script_arguments(32))
        replies.append((more, [len(each.raw) for each in channel._messages_in(fields)]))
    assert replies == [(1, [10, 300, 300]), (1, [300, 2000]), (1, [2000]), (0, [10])]
    assert server.hlen("unacked") == server.zcard("unacked_index") == 7


def test_invalid_binding_does_not_stop_publishing(server, connection):
    channel = connection.channel()
    queue = Queue("prompts", Exchange("prompts"), routing_key="prompts")(channel)
    queue.declare()
    server.sadd(
        "_kombu.binding.prompts", "x", b"\xff", "a\x06\x16b", "1\x06\x162\x06\x163\x06\x164"
    )
    Producer(channel).publish("a", exchange="prompts", routing_key="prompts")
    assert queue.get(no_ack=True).payload == "a"


def test_message_from_basic_get_is_held(server, connection):
    queue = QUEUE(connection.channel())
    Producer(connection.channel(), auto_declare=False).publish("a", routing_key="prompts")
    Producer(connection.channel(), auto_declare=False).publish("b", routing_key="prompts")
    server.rpush("prompts", b"no message")
    message = queue.get()
    assert (message.payload, server.hlen("unacked")) == ("a", 1)
    message.ack()
    assert queue.get(no_ack=True).payload == "b"
    assert queue.get() is None
    assert server.exists("unacked", "unacked_index", "prompts") == 0
