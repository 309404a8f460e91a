"""When acknowledgements are sent to the broker."""

from contextlib import contextmanager
from math import inf
from unittest.mock import MagicMock

import pytest
from kombu.asynchronous import Hub, get_event_loop, set_event_loop
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from berlin_worker.broker.qos import QoS
from berlin_worker.broker.state import STATE

pytestmark = pytest.mark.unit


class Channel:
    """A channel that records what each pipeline sends."""

    do_restore = False
    reserves = True
    settled_at = 0.0
    unacked_key, unacked_index_key = "unacked", "unacked_index"

    def __init__(self):
        self.sent = []

    @contextmanager
    def conn_or_acquire(self):
        client = MagicMock()
        pipe = client.pipeline.return_value.__enter__.return_value
        pipe.hdel.side_effect = lambda _, *tags: self.sent.append(set(tags))
        yield client


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(STATE, "pending_acks", {})
    before = get_event_loop()
    hub = Hub()
    set_event_loop(hub)
    yield hub
    hub.close()
    set_event_loop(before)


def test_acknowledgements_of_one_turn_go_together_before_the_hub_waits_again(hub):
    channel = Channel()
    qos = QoS(channel)
    for tag in ("a", "b"):
        hub.call_soon(qos.ack, tag)
    next(hub.create_loop())
    assert channel.sent == [{"a", "b"}]
    assert STATE.pending_acks == {}


def test_acknowledgement_from_before_a_failover_is_not_sent_to_the_new_primary(hub):
    channel = Channel()
    channel.settled_at = 5.0
    STATE.pending_acks.update(a=4.9, b=5.0)
    QoS(channel).flush_acks()
    assert channel.sent == [{"b"}]
    assert STATE.pending_acks == {}


def test_nothing_is_sent_if_all_acknowledgements_are_from_before_a_failover(hub):
    channel = Channel()
    channel.settled_at = inf
    qos = QoS(channel)
    qos.ack("a")
    qos.flush_acks()
    assert channel.sent == []
    assert STATE.pending_acks == {}


def test_without_a_hub_each_is_sent_at_once(hub):
    set_event_loop(None)
    channel = Channel()
    qos = QoS(channel)
    qos.ack("a")
    qos.ack("b")
    assert channel.sent == [{"a"}, {"b"}]


class Refused(Channel):
    """A channel whose server answers each script and pipeline with ``error``."""

    def __init__(self, error):
        super().__init__()
        self.error, self.active_queues, self.dead_letters_max = error, {"prompts"}, 5
        self.visibility_timeout = 8
        self.lists_of = lambda queues: [(queue, queue) for queue in queues]

    @contextmanager
    def conn_or_acquire(self, client=None):
        made = MagicMock()
        made.eval.side_effect = made.evalsha.side_effect = self.error
        made.pipeline.return_value.__enter__.return_value.execute.side_effect = self.error
        yield made


def test_acknowledgements_wait_after_a_failure_until_the_broker_answers(hub, caplog):
    channel = Refused(RedisConnectionError("gone"))
    qos = QoS(channel)
    qos.ack("a")
    qos.flush_acks()
    assert "acknowledgements wait for the broker" in caplog.text
    channel.error = None
    qos.flush_acks()
    assert list(STATE.pending_acks) == ["a"]
    qos._disconnected = False
    qos.flush_acks()
    assert not STATE.pending_acks


def test_refused_scripts_end_no_worker(hub, caplog, monkeypatch):
    monkeypatch.setattr(STATE, "suspended", False)
    monkeypatch.setattr(STATE, "restores_from", 0.0)
    qos = QoS(Refused(ResponseError("READONLY")))
    qos._to_extend, qos._batch_size = ["a", "b", "c"], 2
    qos.extend_some()
    assert "cannot be renewed" in caplog.text
    assert qos._to_extend == ["a"]
    qos.restore_visible(interval=1)
    assert "cannot be given back" in caplog.text
    with pytest.raises(RedisConnectionError, match="cannot be given back"):
        qos.requeue(["a"])
    with pytest.raises(ResponseError):
        qos.dead_letter("a", "job-1", "not_a_message")
    qos.requeue([])


def test_script_that_the_server_has_lost_is_sent_again(hub):
    client = MagicMock()
    client.eval.return_value = client.evalsha.return_value = b"found"
    channel = MagicMock()
    channel.conn_or_acquire.return_value.__enter__.return_value = client
    qos = QoS(channel)
    assert qos._run("requeue", ["key"], ["RPUSH", "a"]) == b"found"
    assert qos._run("requeue", ["key"], ["RPUSH", "a"]) == b"found"
    assert (client.eval.call_count, client.evalsha.call_count) == (1, 1)
    client.evalsha.side_effect = NoScriptError("no such script")
    assert qos._run("requeue", ["key"], ["RPUSH", "a"]) == b"found"
    assert (client.eval.call_count, client.evalsha.call_count) == (2, 2)


def test_what_no_worker_wrote_and_what_cannot_be_given_back_is_logged(hub, caplog, monkeypatch):
    monkeypatch.setattr(STATE, "restores_from", 0.0)
    qos = QoS(Refused(None))
    replies = iter([(1, b"WRONGTYPE", b"garbage"), (0, b"")])
    monkeypatch.setattr(qos, "_run", lambda *_: next(replies))
    qos.restore_visible(num=None, interval=1)
    assert "'garbage' had a value that no worker writes" in caplog.text
    assert "cannot be given back" in caplog.text
    assert next(replies, None) is None
    qos.channel.active_queues = set()
    qos.restore_visible(interval=1)  # a channel without queues asks nothing


def test_released_message_is_held_no_longer(hub):
    qos = QoS(Channel())
    qos.append(MagicMock(), "a")
    qos.release("a")
    qos.release("unknown")
    assert "a" in qos._dirty
    assert "unknown" not in qos._dirty


def test_postponed_messages_go_back_when_they_are_due_the_first_on_top(hub, monkeypatch):
    now, calls = [100.0], []
    monkeypatch.setattr("berlin_worker.broker.qos.time", lambda: now[0])
    monkeypatch.setattr("berlin_worker.broker.qos._REQUEUED_A_CALL", 2)
    monkeypatch.setattr("berlin_worker.broker.qos._MOST_POSTPONED", 4)
    for name in ("clock_ahead_s", "extended_at"):
        monkeypatch.setattr(STATE, name, 0.0)
    channel = Refused(None)
    qos = QoS(channel)
    monkeypatch.setattr(qos, "_run", lambda name, _, args: calls.append((name, args)) or 1.0)
    for tag, due in [("c", 103.0), ("a", 101.0), ("d", 900.0), ("b", 102.0), ("too many", 100.0)]:
        qos.append(MagicMock(), tag)
        qos.postpone(tag, due)
    assert qos._delivered.keys() == qos._dirty, "none of them takes a slot"
    qos.extend_some()
    assert calls == []
    now[0] = 200.0
    qos.extend_some()
    qos.extend_some()
    qos.extend_some()
    assert calls == [("requeue", ["RPUSH", "b", "a"]), ("requeue", ["RPUSH", "c"])]
    qos.extend_visibility()
    assert calls[2:] == [("extend_visibility", ["d"])]


def test_refusal_of_a_postponed_message_ends_no_worker(hub, caplog):
    qos = QoS(Refused(ResponseError("OOM")))
    qos.postpone("a", 0.0)
    qos.extend_some()
    assert "cannot be renewed" in caplog.text
    assert not qos._postponed
