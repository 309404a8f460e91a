"""Callbacks from another thread, with a hub and without one."""

import threading

import pytest

from berlin_worker.pool.callback_queue import CallbackQueue

pytestmark = pytest.mark.unit


class Hub:
    """A hub of kombu's that reads at each turn, or loses its broker."""

    def __init__(self, error=None):
        self.error, self.read, self.alarms, self.attached = error, None, [], 0

    def add_reader(self, _, read):
        self.attached, self.read = self.attached + 1, read

    def call_later(self, at_most_s, _):
        self.alarms.append(at_most_s)
        return self

    def cancel(self):
        self.alarms.append("cancelled")

    def run_once(self):
        if self.error:
            raise self.error
        self.read()


@pytest.fixture
def make_queue():
    made = []

    def make(*, has_hub):
        made.append(CallbackQueue(has_hub=has_hub))
        return made[-1]

    yield make
    for queue in made:
        queue._reader.close()
        queue._writer.close()


def test_thread_without_a_hub_runs_its_callbacks(make_queue):
    queue, threads = make_queue(has_hub=False), []
    queue.post(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]
    assert queue.empty
    queue.run_until(lambda: queue._awake is False, 60, lambda: False)  # the wake-up is read


def test_hub_runs_callbacks_in_order_and_one_that_raises_stops_none(make_queue, caplog):
    queue, hub, done = make_queue(has_hub=True), Hub(), []
    queue.attach(hub)
    queue.post(lambda: done.append(1))
    queue.post(lambda: 1 / 0)
    queue.post(lambda: done.append(2))
    assert not queue.empty
    queue.run_until(lambda: queue.empty, 60, lambda: False)
    assert done == [1, 2]
    assert "A callback of the pool failed" in caplog.text
    assert hub.attached == 2  # again, since Celery resets the hub
    assert hub.alarms == [1.0, "cancelled"]


def test_queue_goes_on_without_a_hub_that_lost_its_broker(make_queue, caplog):
    queue, hub, done = make_queue(has_hub=True), Hub(OSError("gone")), []
    queue.attach(hub)
    queue.post(lambda: done.append(1))
    queue.run_until(lambda: queue.empty, 60, lambda: False)
    assert done == [1]
    assert "Lost the broker while stopping" in caplog.text


def test_wait_ends_in_a_hurry_or_when_its_time_is_up(make_queue):
    queue = make_queue(has_hub=True)
    queue.run_until(lambda: False, None, lambda: True)
    queue.run_until(lambda: False, 0, lambda: False)
    queue.run_until(lambda: True, None, lambda: False)


def test_wake_up_of_a_closed_queue_raises_nothing(make_queue):
    queue = make_queue(has_hub=True)
    queue._writer.close()
    queue.wake()
    assert queue._awake
