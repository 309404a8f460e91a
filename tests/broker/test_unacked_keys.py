"""The two keys of held messages. Other clients may write to them: no message is lost by it."""

import base64
import contextlib
import json
import time

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu import Connection
from kombu.asynchronous import get_event_loop

from berlin_schemas import names
from berlin_worker.broker.state import STATE
from berlin_worker.broker.transport import RedisTransport
from tests.support.redis_types import WRITERS
from tests.support.selection import examples
from tests.support.taker import Taker
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

HELD, INDEX, REDELIVERED = "unacked", "unacked_index", "unacked:redelivered"


@pytest.fixture
def server(real_redis_url):
    with redis.Redis.from_url(real_redis_url) as client:
        yield client


@pytest.fixture
def takers(real_redis_url):
    with contextlib.ExitStack() as stack:

        def make(**options):
            connection = stack.enter_context(
                Connection(real_redis_url, transport=RedisTransport, transport_options=options)
            )
            return Taker(connection)

        yield make


def message(body, tag="always the same", exchange="celery", routing_key="celery", **fields):
    """Return a message of a hand-made producer: for another queue, and with one tag for all."""
    properties = {
        "delivery_tag": tag,
        "delivery_info": {"exchange": exchange, "routing_key": routing_key},
        "body_encoding": "base64",
    }
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "properties": properties,
            **fields,
        }
    ).encode()


def lists(server):
    """Return the messages of each list, the first to be served first."""
    keys = sorted(server.scan_iter("prompts*"))
    return {key.decode(): server.lrange(key, 0, -1)[::-1] for key in keys}


def let_time_pass(server, seconds=3600):
    for tag, since in server.zrange(INDEX, 0, -1, withscores=True):
        server.zadd(INDEX, {tag: since - seconds})


def look_for_dead_workers(taker):
    taker.channel.qos.restore_visible(num=None, interval=1)


def test_messages_with_one_tag_are_held_each(server, takers):
    raw = [message(number) for number in range(6)]
    server.lpush("prompts", *raw)
    one = takers()
    one.until(6)
    assert one.got == list(range(6))
    assert server.hlen(HELD) == server.zcard(INDEX) == 6


@pytest.mark.parametrize("way", ["time", "restore", "reject", "requeue"])
def test_requeued_message_is_unchanged_and_on_its_own_list(server, takers, way):
    """The bytes are some that no parser would write, and they name another queue."""
    spaced = message("low", priority=0).replace(b": ", b" :\t") + b"\n "
    first, second = message("first"), message("second", headers={"x": "\udfff"})
    server.lpush("prompts\x06\x166", spaced)
    server.lpush("prompts", first, second)
    before = lists(server)
    one = takers()
    one.until(3)
    assert lists(server) == {}
    if way == "time":
        let_time_pass(server)
        look_for_dead_workers(one)
    elif way == "restore":
        one.channel.qos.restore_unacked()
    else:
        for tag in list(one.channel.qos._delivered):
            one.channel.basic_reject(tag, requeue=True)
    assert lists(server) == before
    assert server.exists(HELD, INDEX, "celery") == 0
    assert 0 < server.ttl(REDELIVERED) <= 86400
    server.lpush("prompts", message("new"))
    other = takers()
    other.until(4)
    assert other.got[-1] == "low", "steps of priority are served in order"
    assert dict(zip(other.got, other.redelivered, strict=True)) == {
        "first": True, "second": True, "low": True, "new": False,
    }  # fmt: skip
    assert not server.exists(REDELIVERED)


def test_message_without_a_redelivered_mark_is_delivered(server, takers):
    server.lpush("prompts", message("a"))
    one = takers(visibility_timeout=8)
    one.until(1)
    server.set(REDELIVERED, "no hash")
    one.channel.qos.restore_unacked()
    one.until(2)
    assert (one.got, one.redelivered) == (["a", "a"], [False, False])
    look_for_dead_workers(one)
    one.channel.qos.restore_unacked()
    one.until(3)
    assert one.redelivered[-1]
    server.hset(REDELIVERED, mapping=dict.fromkeys(map(str, range(10_000)), 1))
    one.channel.qos.restore_unacked()
    assert server.hlen(REDELIVERED) == 10_000
    one.until(4)
    assert not one.redelivered[-1]


def test_server_s_clock_decides_how_long_a_message_is_held(server, takers, monkeypatch):
    server.lpush("prompts", message("a"))
    one = takers(visibility_timeout=8)
    one.until(1)
    ((_, since),) = server.zrange(INDEX, 0, -1, withscores=True)
    real = time.time
    for shift in (-3600, 3600):
        monkeypatch.setattr(time, "time", lambda shift=shift: real() + shift)
        monkeypatch.setattr("berlin_worker.broker.qos.time", lambda shift=shift: real() + shift)
        other = takers(visibility_timeout=8)
        look_for_dead_workers(other)
        assert server.zcard(INDEX) == 1, "held"
        one.channel.qos.extend_visibility()
        assert STATE.clock_ahead_s == pytest.approx(shift, abs=30)
    monkeypatch.setattr(STATE, "clock_ahead_s", 0.0)
    ((_, until),) = server.zrange(INDEX, 0, -1, withscores=True)
    assert since <= until < since + 600


GARBAGE = [b"", b"7", b"7:", b"7:prompts", b"999999999999:x", b"0:", b"x", b"\xff", b"null", b"[]"]
GARBAGE += [b'["a", "b"]', b'[{"body": 7}, "", "prompts"]', b"-1:x{}", b"[" * 5000]


def test_entry_that_no_worker_wrote_goes_through_the_queue_to_the_dead_letters(server, takers):
    server.lpush("prompts", message("good"))
    one = takers(visibility_timeout=8)
    one.until(1)
    for number, value in enumerate(GARBAGE):
        server.hset(HELD, f"garbage {number}", value)
    server.zadd(INDEX, {f"garbage {number}": 1 for number in range(0, len(GARBAGE), 2)})
    server.zadd(INDEX, {"no entry": 1, "none yet": 4e12, "never": "inf", "ever": "-inf"})
    server.hset(HELD, mapping={"by kombu": json.dumps([json.loads(message("kombu's")), "", "x"])})
    look_for_dead_workers(one)
    let_time_pass(server)
    look_for_dead_workers(one)
    assert server.exists(HELD, INDEX) == 0
    one.until(3)
    for _ in range(len(GARBAGE)):
        one.turn(0.01)
    assert sorted(one.got) == ["good", "good", "kombu's"]
    assert server.xlen(names.DEAD_LETTERS) == len(GARBAGE)
    assert server.hlen(HELD) == server.zcard(INDEX) == 2


def test_as_many_orphans_as_indexes_without_entries_are_found(server, takers):
    one = takers()
    server.hset(HELD, "orphan", b"7:prompts" + message("orphan"))
    server.zadd(INDEX, {"no entry": "inf"})
    for _ in range(31):
        look_for_dead_workers(one)
    let_time_pass(server)
    look_for_dead_workers(one)
    one.until(1)
    assert one.got == ["orphan"]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("key", [HELD, INDEX, REDELIVERED, names.DEAD_LETTERS, "prompts\x06\x163"])
def test_key_of_a_wrong_type_stops_no_worker(server, takers, key, kind):
    one = takers(visibility_timeout=8)
    WRITERS[kind](server, key)
    server.lpush("prompts", message("good"), b"no message")

    def both_are_taken():
        one.turn(0.05)
        look_for_dead_workers(one)
        dead = []
        with contextlib.suppress(redis.ResponseError):  # until the worker has removed the key
            dead = [fields.get(b"message") for _, fields in server.xrange(names.DEAD_LETTERS)]
        return "good" in one.got and b"no message" in dead

    wait_until(both_are_taken)
    assert not server.exists("prompts")
    foreign = key == HELD and kind == "hash"
    assert server.hlen(HELD) == 1 + foreign


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=st.lists(st.binary(max_size=40) | st.text(max_size=10).map(message), max_size=8),
    entries=st.dictionaries(st.binary(max_size=5), st.binary(max_size=40), max_size=4),
    scores=st.dictionaries(st.binary(max_size=5), st.floats(allow_nan=False), max_size=4),
)
def test_each_message_is_delivered_or_a_dead_letter_with_any_content_of_the_keys(
    server, takers, raw, entries, scores
):
    server.flushdb()
    assert get_event_loop() is None
    one = takers(visibility_timeout=8)
    if raw:
        server.lpush("prompts", *raw)
    if entries:
        server.hset(HELD, mapping=entries)
    if scores:
        server.zadd(INDEX, scores)
    for _ in range(2):
        look_for_dead_workers(one)
        let_time_pass(server, 1e300)
    look_for_dead_workers(one)
    expected = len(raw) + len(entries)

    def accounted_for():
        return len(one.got) + server.xlen(names.DEAD_LETTERS)

    # An empty list is not the end: the script may have taken messages whose reply is unread yet.
    wait_until(lambda: one.turn(0.01) or accounted_for() >= expected, f"{expected} messages")
    assert (accounted_for(), lists(server)) == (expected, {})
    assert server.hlen(HELD) == len(one.got)
    one.connection.close()
