"""When acknowledgements are sent to the broker."""

from contextlib import contextmanager
from math import inf
from unittest.mock import MagicMock

import pytest
from kombu.asynchronous import Hub, get_event_loop, set_event_loop

from berlin_worker.broker.qos import QoS
from berlin_worker.broker.state import STATE

pytestmark = pytest.mark.unit


class Channel:
    """Notes what is sent by one pipeline."""

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
