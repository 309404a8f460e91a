"""Keys of wrong types: a consumer that starts, or declares again, heals them."""

import pytest
import redis
from kombu import Connection, Exchange, Producer, Queue

from berlin_worker.broker.state import STATE
from berlin_worker.broker.transport import RedisTransport
from tests.support.redis_types import WRITERS
from tests.support.taker import Taker
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def after_no_outage(monkeypatch):
    monkeypatch.setattr(STATE, "restores_from", 0.0)


@pytest.fixture
def server(real_redis_url):
    with redis.Redis.from_url(real_redis_url) as client:
        yield client


@pytest.fixture
def connection(real_redis_url):
    options = {"visibility_timeout": 8}
    with Connection(
        real_redis_url, transport=RedisTransport, transport_options=options
    ) as connection:
        yield connection


TYPES = {
    **dict.fromkeys(["prompts", "prompts\x06\x163", "prompts\x06\x169"], "list"),
    "unacked": "hash",
    "unacked_index": "zset",
    "unacked:redelivered": "hash",
    "_kombu.binding_deadlines": "zset",
    **{
        f"_kombu.binding{kind}.{name}": "set"
        for kind in ("", "_permanent")
        for name in ("jobs", "control")
    },
}


@pytest.mark.parametrize("kind", WRITERS)
def test_keys_of_a_wrong_type_do_not_stop_a_consumer_that_starts(server, connection, kind, caplog):
    for key, right in TYPES.items():
        if kind != right:
            WRITERS[kind](server, key)
    taker = Taker(connection)
    jobs = Queue("prompts", Exchange("jobs"), routing_key="prompts")(taker.channel)
    control = Queue("control", Exchange("control"), expires=60)(taker.channel)
    jobs.declare()
    control.declare()
    taker.channel.qos.restore_visible(num=None, interval=1)
    producer = Producer(taker.channel)
    producer.publish("a", exchange="jobs", routing_key="prompts")
    producer.publish("low", exchange="jobs", routing_key="prompts", priority=3)
    wait_until(lambda: taker.turn() or {"a", "low"} <= set(taker.got))
    for tag in tuple(taker.channel.qos._delivered):
        taker.channel.basic_ack(tag)
    for key, right in TYPES.items():
        assert server.type(key).decode() in {right, "none"}
    assert server.smembers("_kombu.binding.jobs") == {b"prompts\x06\x16\x06\x16prompts"}
    assert caplog.text.count("had a value that no worker writes, and was deleted") >= len(TYPES) - 5
    if kind != "set":
        server.delete("_kombu.binding.control", "_kombu.binding_permanent.jobs")
        WRITERS[kind](server, "_kombu.binding.control")
        WRITERS[kind](server, "_kombu.binding_permanent.jobs")
        taker.channel._refresh_bindings(["control"])
        jobs.delete()
        assert server.type("_kombu.binding.control") == b"set"


def test_key_that_the_user_may_not_delete_is_an_error(server, connection, monkeypatch):
    server.set("_kombu.binding.jobs", "x")
    taker = Taker(connection)
    with taker.channel.conn_or_acquire() as client:
        monkeypatch.setattr(client, "eval", no_permission)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        Queue("prompts", Exchange("jobs"), routing_key="prompts")(taker.channel).declare()


def no_permission(*_):
    raise redis.exceptions.NoPermissionError("NOPERM")
