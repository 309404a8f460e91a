"""The heartbeat of the consumer: it beats while it consumes and while it reconnects."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import bootsteps
from celery.worker.consumer import Consumer

from berlin_worker.broker.consumer import PromptConsumer
from berlin_worker.broker.consumer_heartbeat import ConsumerHeartbeat
from berlin_worker.telemetry.liveness import LIVENESS, Heartbeat

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def life(monkeypatch):
    """Make the consumer silent for long; afterwards the heartbeats are as before."""
    for name, value in {"consumer": Heartbeat(), "draining": False, "slots": None}.items():
        monkeypatch.setattr(LIVENESS, name, value)
    LIVENESS.consumer._at -= 1000


class FakeTimer:
    """Repeated calls, made by hand."""

    def __init__(self) -> None:
        self.repeated: list[Callable[[], None]] = []

    def call_repeatedly(self, interval_s: float, call: Callable[[], None]) -> Any:
        self.repeated.append(call)
        return SimpleNamespace(cancel=lambda: self.repeated.remove(call))


def consumer(state: int = bootsteps.RUN) -> Any:
    return SimpleNamespace(
        timer=FakeTimer(),
        pool=SimpleNamespace(limit=1000),
        blueprint=SimpleNamespace(state=state),
    )


def test_heartbeat_begins_at_the_start_and_sets_the_slots():
    running = consumer()
    pulse = ConsumerHeartbeat(running)
    pulse.start(running)
    assert LIVENESS.consumer.age_s < 100
    assert LIVENESS.slots == 1000
    LIVENESS.consumer._at -= 1000
    running.pool.limit = 7
    running.timer.repeated[0]()
    assert LIVENESS.consumer.age_s < 100
    assert LIVENESS.slots == 7


def test_lost_connection_stops_the_heartbeat_and_is_no_shutdown():
    running = consumer()
    pulse = ConsumerHeartbeat(running)
    pulse.start(running)
    pulse.stop(running)
    assert running.timer.repeated == []
    assert not LIVENESS.draining
    pulse.start(running)
    assert len(running.timer.repeated) == 1


def test_shutdown_is_draining_with_or_without_a_connection():
    ConsumerHeartbeat(consumer()).stop(consumer(bootsteps.CLOSE))
    assert LIVENESS.draining


def test_reconnecting_consumer_beats(monkeypatch):
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        Consumer, "ensure_connected", lambda self, conn: conn.ensure_connection(callback=poll)
    )
    polled = []

    def poll() -> None:
        polled.append(LIVENESS.consumer.age_s)

    def ensure_connection(**options: Any) -> None:
        asked.append(options)
        options["callback"]()

    searching = PromptConsumer.__new__(PromptConsumer)
    searching.ensure_connected(SimpleNamespace(ensure_connection=ensure_connection))
    [before_giving_up] = polled
    assert before_giving_up < 100
    assert asked[0]["interval_max"] == 2.0
