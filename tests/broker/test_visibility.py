"""A suspended worker neither reserves nor extends messages until it answers again."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from berlin_worker.broker import running
from berlin_worker.broker.qos import QoS
from berlin_worker.broker.state import STATE
from berlin_worker.broker.visibility import redelivered_at_once, suspend_or_resume
from berlin_worker.config.recovery_times import CUT_OFF_S, HUNG_S
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
