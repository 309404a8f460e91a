"""A suspended worker neither reserves nor extends messages until it answers again."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, bootsteps

from berlin_worker.broker import running
from berlin_worker.broker.qos import QoS
from berlin_worker.broker.state import STATE
from berlin_worker.broker.visibility import ExtendVisibility, redelivered_at_once, suspend_or_resume
from berlin_worker.config.recovery_times import CUT_OFF_S, HUNG_S, VISIBILITY_TIMEOUT_S
from berlin_worker.pool.thread import LoopThread
from tests.support.workers import wait_until

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def answering() -> Iterator[None]:
    yield
    STATE.suspended = False


def qos() -> Any:
    channel = SimpleNamespace(transport_options={}, _brpop_sent_at=0, connection=None)
    made = QoS.__new__(QoS)
    made.channel, made.prefetch_count = channel, 10
    made._delivered, made._dirty = {}, set()
    return made


def test_hanging_worker_reserves_no_message_until_it_answers():
    suspend_or_resume(SimpleNamespace(silent_s=HUNG_S + 0.1))
    assert not qos().can_consume()
    suspend_or_resume(SimpleNamespace(silent_s=0.0))
    assert qos().can_consume()


def test_worker_cut_off_from_the_store_reserves_no_message(monkeypatch):
    monkeypatch.setattr(running, "silent_s", lambda: CUT_OFF_S + 0.1)
    suspend_or_resume(SimpleNamespace(silent_s=0.0))
    assert not qos().can_consume()


class Reconnecting:
    """A consumer on Redis whose connection was lost, on a clock that ``pass_s`` moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in ("visibility", "qos"):
            monkeypatch.setattr(f"berlin_worker.broker.{module}.monotonic", lambda: self.now)
        for name in ("restores_from", "restores_in_s", "extended_at", "clock_ahead_s"):
            monkeypatch.setattr(STATE, name, 0.0)
        self.qos = qos()
        self.qos._batch_size, self.qos._to_extend, self.qos.unacked_index_key = 1, [], "index"
        self.qos._postponed = []
        self.qos._run = lambda *_: 1.0
        self.qos.channel.conn_or_acquire, self.qos.channel.settled_at = contextlib.nullcontext, 0.0
        self.consumer = SimpleNamespace(
            timer=SimpleNamespace(call_repeatedly=lambda *_: SimpleNamespace(cancel=lambda: None)),
            connection=SimpleNamespace(transport=SimpleNamespace(driver_type="redis")),
            task_consumer=SimpleNamespace(channel=SimpleNamespace(qos=self.qos)),
            blueprint=SimpleNamespace(state=bootsteps.RUN),
        )
        self.step = ExtendVisibility(self.consumer)

    def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.now += 1
            self.qos.extend_visibility()

    @property
    def restores(self) -> bool:
        return self.now >= STATE.restores_from


def test_connection_lost_every_few_seconds_delays_no_requeue_for_ever(monkeypatch):
    worker = Reconnecting(monkeypatch)
    worker.step.start(worker.consumer)
    assert worker.restores
    restored = []
    for outage_s in (20, 1, 1, 1, 1):
        worker.pass_s(5)
        restored.append(worker.restores)
        worker.step.stop(worker.consumer)
        assert not worker.restores
        worker.now += outage_s
        worker.step.stop(worker.consumer)
        worker.step.start(worker.consumer)
    assert restored == [True, False, True, True, True]


def test_each_long_outage_gives_the_other_workers_a_whole_timeout(monkeypatch):
    worker = Reconnecting(monkeypatch)
    worker.step.start(worker.consumer)
    for _ in range(3):
        worker.pass_s(6)
        worker.step.stop(worker.consumer)
        worker.now += CUT_OFF_S
        worker.step.start(worker.consumer)
        assert STATE.restores_from == worker.now + VISIBILITY_TIMEOUT_S


def test_silence_of_a_loop_is_measured_until_it_answers():
    class Nothing:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None: ...

    thread = LoopThread(Nothing, on_crash=lambda error: None, on_exit=lambda: None)
    thread.start(poll=lambda: None)
    blocked = [True]
    try:
        thread.call_soon(lambda: wait_until(lambda: not blocked[0]))
        silent = wait_until(lambda: thread.silent_s)
        wait_until(lambda: thread.silent_s > silent + 0.01)
        blocked[0] = False
        wait_until(lambda: thread._asked is None)
    finally:
        thread.close()
        wait_until(lambda: thread.exited)


@pytest.mark.parametrize(
    ("delivery_info", "broker_url", "expected"),
    [
        ({"redelivered": True}, "amqp://rabbit//", True),
        ({"redelivered": True}, "pyamqp://rabbit//", True),
        ({"redelivered": True}, "amqps://rabbit//", True),
        ({"redelivered": False}, "amqp://rabbit//", False),
        ({}, "amqp://rabbit//", False),
        ({"redelivered": True}, "redis://broker/0", False),
        ({"redelivered": True}, "rediss://broker/0", False),
        ({"redelivered": True}, "redis+socket:///run/r.sock", False),
        ({"redelivered": True}, "sentinel://broker:26379/0", False),
    ],
)
def test_only_rabbitmq_redelivers_before_the_lease_expires(delivery_info, broker_url, expected):
    conf = Celery(broker=broker_url, set_as_current=False).conf
    assert redelivered_at_once(delivery_info, conf) is expected
