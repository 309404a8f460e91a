"""Reserving messages from Redis: the first with the wait, the others without, and none lost."""

import base64
import contextlib
import json
import socket

import pytest
import redis
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub, get_event_loop, set_event_loop

from berlin_worker.broker.transport import RedisTransport
from berlin_worker.errors import SettingsError
from tests.support.taker import Taker
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

INDEX = "unacked_index"


@pytest.fixture
def server(real_redis_url):
    with redis.Redis.from_url(real_redis_url) as client:
        yield client


@pytest.fixture
def connect(real_redis_url):
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            Connection(real_redis_url, transport=RedisTransport, transport_options=options)
        )


@pytest.fixture
def taker(connect):
    return lambda **options: Taker(connect(**options))


@pytest.fixture
def send(connect):
    producer = Producer(connect(priority_steps=[0, 5]).channel(), auto_declare=False)

    def send(*bodies, **options):
        for body in bodies:
            producer.publish(body, routing_key="prompts", **options)

    return send


def waits_by(server, command):
    """Return whether a connection waits for a message by that command."""
    return command in {client["cmd"] for client in server.client_list()}


def test_channel_that_has_collected_replies_reserves_messages(server, connect, send):
    connection = connect()
    replies = Queue("replies", durable=False)
    with Consumer(connection.default_channel, [replies], no_ack=True, on_message=print):
        with contextlib.suppress(TimeoutError, socket.timeout):
            connection.drain_events(timeout=0.1)
        wait_until(lambda: waits_by(server, "brpop"), "it waits as kombu does")
    taker = Taker(connection, connection.default_channel)
    send("a", "b")
    taker.until(2)
    taker.asked()
    wait_until(lambda: waits_by(server, "blmove"), "it waits, and moves nothing")
    assert server.zcard(INDEX) == 2


def waiting(server):
    """Return the messages of the queue, the first to be served first."""
    wait_until(lambda: server.llen("prompts"), "a message")
    messages = [json.loads(raw) for raw in reversed(server.lrange("prompts", 0, -1))]
    return [json.loads(base64.b64decode(message["body"])) for message in messages]


def calls(server, command):
    return server.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def test_first_message_comes_with_the_wait_and_the_others_together(server, taker, send):
    one = taker()
    one.asked()
    send(*range(100))
    one.until(100)
    assert one.got == list(range(100))
    assert server.zcard(INDEX) == server.hlen("unacked") == 100
    server.config_resetstat()
    send("after")
    one.until(101)
    # Of the two calls that reply, the second began to wait again: no call follows without a wait.
    assert calls(server, "evalsha") + calls(server, "eval") <= 3


def test_message_reserved_for_a_cancelled_consumer_is_requeued(server, taker, send):
    leaving = taker()
    leaving.asked()
    leaving.consumer.cancel()
    send(1, 2)
    wait_until(lambda: server.zcard(INDEX) == 1, "taken for nobody")
    leaving.turn()
    assert leaving.got == []
    assert server.zcard(INDEX) == server.hlen("unacked") == 0
    assert waiting(server) == [1, 2]


def test_closed_channel_requeues_its_reserved_message(server, taker, send):
    leaving = taker()
    leaving.asked()
    send(1, 2)
    wait_until(lambda: server.zcard(INDEX) == 1, "taken for nobody")
    leaving.channel.close()
    assert leaving.got == []
    assert server.zcard(INDEX) == server.hlen("unacked") == 0
    assert waiting(server) == [1, 2]


def test_channel_closed_during_its_wait_reserves_nothing_later(server, taker, send):
    leaving = taker()
    leaving.asked()
    leaving.channel.close()
    wait_until(lambda: not server.info("clients")["blocked_clients"], "nobody waits")
    send(1)
    assert waiting(server) == [1]


def test_stopped_process_has_reserved_one_message_at_most(server, taker, send):
    stands, works = taker(), taker(visibility_timeout=1, unacked_restore_interval=0.1)
    stands.asked()
    send(*range(10))
    wait_until(lambda: server.zcard(INDEX) == 1, "taken for nobody")
    works.until(9)
    assert works.got == list(range(1, 10))

    def comes_back():
        works.channel.qos.restore_visible(interval=1)
        works.turn()
        return 0 in works.got

    wait_until(comes_back, "the one comes back")


def test_flushed_script_cache_loses_nothing(server, taker, send):
    one = taker()
    send("before")
    one.until(1)
    one.asked()
    server.script_flush()
    send("after", "and after")
    one.until(3)
    assert one.got == ["before", "after", "and after"]


def test_full_server_delivers_nothing_and_keeps_the_order(server, taker, send):
    one = taker()
    one.asked()
    server.config_set("maxmemory", "1")
    try:
        # A wait that begins now ends in an error. One that began earlier takes a message, and Redis
        # refuses the script that would note it.
        for _ in range(20):
            one.turn()
        server.config_set("maxmemory", "0")
        send("first", "second")
        server.config_set("maxmemory", "1")
        for _ in range(20):
            one.turn()
        assert server.zcard(INDEX) == 0
        assert one.got == []
    finally:
        server.config_set("maxmemory", "0")
    one.until(2)
    assert one.got == ["first", "second"]


def test_no_more_messages_than_free_slots_are_reserved(server, taker, send):
    one = taker()
    one.consumer.qos(prefetch_count=5)
    send(*range(10))
    one.until(5)
    for _ in range(5):
        one.turn(0.01)
    assert one.got == list(range(5))
    assert server.zcard(INDEX) == 5
    assert waiting(server) == list(range(5, 10))


def test_message_of_another_priority_is_found_when_the_wait_ends(server, taker, send):
    one = taker(priority_steps=[0, 5])
    one.asked()
    send("low", priority=5)
    one.until(1)
    assert one.got == ["low"]


def test_message_of_another_priority_ends_the_wait_of_a_worker_at_once(server, connect, send):
    """The wait would last for ten minutes: the message ends it."""
    connection = connect(priority_steps=[0, 5], polling_interval=600)
    before, hub = get_event_loop(), Hub()
    set_event_loop(hub)
    try:
        one = Taker(connection)
        connection.transport.register_with_event_loop(connection.connection, hub)

        def send_to_idle(body, **options):
            waits = lambda: server.info("clients")["blocked_clients"] == 2  # noqa: E731  # for wait_until
            wait_until(lambda: hub.run_once() or waits(), "both lists are waited for")
            send(body, **options)
            wait_until(lambda: hub.run_once() or body in one.got, body)

        sent = [(f"{step} {n}", step) for n in range(3) for step in (5, 0)]
        for body, step in sent:
            send_to_idle(body, priority=step)
        assert one.got == [body for body, _ in sent]
        # A full consumer takes no message, and a closed channel waits no more.
        one.consumer.qos(prefetch_count=len(one.got))
        send("waits", priority=5)
        for _ in range(5):
            hub.run_once()
        assert len(one.got) == 6
        one.channel.close()
        wait_until(lambda: not server.info("clients")["blocked_clients"], "nobody waits")
    finally:
        set_event_loop(before)
        hub.close()


def test_highest_priority_comes_first_and_no_message_is_popped_early(server, taker, send):
    send("last", priority=5)
    send("first")
    one = taker(priority_steps=[0, 5])
    one.until(2)
    assert one.got == ["first", "last"]
    one.channel.qos.restore_unacked()
    assert (server.llen("prompts"), server.llen("prompts\x06\x165")) == (1, 1)


def test_global_keyprefix_is_refused(connect):
    with pytest.raises(SettingsError, match="global_keyprefix is not supported: give each fleet"):
        connect(global_keyprefix="a:").channel()


def test_consumer_of_broadcasts_subscribes_at_once(server, connect):
    connection = connect()
    got = []
    with connection.channel() as channel:
        for name in ("news", "more"):
            exchange = Exchange(name, type="fanout", durable=False)
            queue = Queue(f"of {name}", exchange, durable=False)
            consumer = Consumer(
                channel, [queue], no_ack=True, on_message=lambda m: got.append(m.payload)
            )
            consumer.consume()
        wait_until(lambda: server.pubsub_numpat() == 2, "both are subscribed")
        for name in ("news", "more"):
            Producer(channel).publish(name, exchange=name, routing_key="")
        while len(got) < 2:
            connection.drain_events(timeout=10)
    assert sorted(got) == ["more", "news"]
