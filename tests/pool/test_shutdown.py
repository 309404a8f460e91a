"""Ending a worker: no task is lost or runs twice, and the user can always end the worker."""

import signal
from collections.abc import Iterator

import pytest

from tests.support.sample_app import SampleApp, sample_app
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def app(real_redis_url: str) -> Iterator[SampleApp]:
    with sample_app(real_redis_url) as client:
        yield client


def assert_requeued(app: SampleApp, *ids: str) -> None:
    assert app.unacked() == 0
    assert app.redis.zcard("unacked_index") == 0
    assert app.queued() == list(ids)


def test_task_that_finishes_during_a_warm_shutdown_is_acknowledged(app: SampleApp) -> None:
    with app.worker("-c", "2") as worker:
        sent = app.send("hold", "a")
        longer = app.send("hold", "b")
        app.wait_for_note("start b")
        worker.send_signal(signal.SIGTERM)
        worker.wait_for_log("Warm shutdown")
        app.release("a")
        assert sent.get() == "a"
        # While the other one still runs, not only when the worker ends.
        wait_until(lambda: app.redis.hlen("unacked") == 1, "the ack on its way")
        app.release("b")
        assert longer.get() == "b"
        assert worker.wait() == 0
    assert_requeued(app)


def test_tasks_beyond_the_drain_timeout_clean_up_and_go_back(app: SampleApp) -> None:
    with app.worker("-c", "3", worker_pool_drain_timeout=0.2) as worker:
        ids = [app.send("hold", name, 60, 0.3).id for name in ("a", "b", "c")]
        app.wait_for_note("start c")
        assert worker.stop() == 0
    assert sorted(app.queued()) == sorted(ids)
    assert_requeued(app, *app.queued())
    for name, sent in zip("abc", ids, strict=True):
        assert f"cancelling {name} shutdown {sent}" in app.notes()
        assert f"cancelled {name} shutdown" in app.notes()


def test_requeued_message_is_delivered_next(app: SampleApp) -> None:
    with app.worker("-c", "1", worker_pool_drain_timeout=0) as worker:
        running = app.send("hold", "a")
        app.wait_for_note("start a")
        queued = app.send("hold", "b")
        assert worker.stop() == 0
    assert_requeued(app, running.id, queued.id)


def test_requeued_task_completes_on_another_worker(app: SampleApp) -> None:
    with app.worker("-c", "1", worker_pool_drain_timeout=0) as worker:
        sent = app.send("hold", "a")
        app.wait_for_note("start a")
        assert worker.stop() == 0
    with app.worker("-c", "1"):
        app.wait_for_note("start a", times=2)
        app.release("a")
        assert sent.get() == "a"


def test_messages_not_started_go_back_at_once_and_in_order(app: SampleApp) -> None:
    with app.worker("-c", "1", "--prefetch-multiplier", "4") as worker:
        running = app.send("hold", "a")
        waiting = [app.send("hold", name).id for name in ("b", "c")]
        later = app.send("hold", "d", countdown=600)
        for each in (*waiting, later.id):
            worker.wait_for_log(f"[{each}] received")
        app.wait_for_note("start a")
        worker.send_signal(signal.SIGTERM)
        # The task in flight still runs.
        wait_until(lambda: len(app.queued()) == 3, "three messages back")
        assert app.unacked() == 1
        assert app.queued() == [*waiting, later.id]
        app.release("a")
        assert worker.wait() == 0
        assert running.get() == "a"
    assert_requeued(app, *waiting, later.id)


def test_task_may_finish_although_it_was_cancelled(app: SampleApp) -> None:
    with app.worker("-c", "1", worker_pool_drain_timeout=0) as worker:
        sent = app.send("finish_anyway", "a")
        app.wait_for_note("start a")
        assert worker.stop() == 0
        assert sent.get() == "finished"
    assert_requeued(app)


def test_task_whose_clean_up_fails_goes_back_and_is_no_failure(app: SampleApp) -> None:
    with app.worker("-c", "1", worker_pool_drain_timeout=0) as worker:
        sent = app.send("fail_in_cleanup", "a")
        app.wait_for_note("start a")
        assert worker.stop() == 0
        assert "the clean-up failed" in worker.log
        assert sent.state != "FAILURE"
    assert_requeued(app, sent.id)


def test_task_that_will_not_stop_does_not_keep_the_worker(app: SampleApp) -> None:
    conf = {"worker_pool_drain_timeout": 0, "worker_pool_cleanup_timeout": 0.3}
    with app.worker("-c", "1", **conf) as worker:
        sent = app.send("never_stop", "a")
        app.wait_for_note("start a")
        assert worker.stop() == 0
        assert f"still clean up: {sent.id}" in worker.log
    assert_requeued(app, sent.id)


def test_task_that_blocks_the_loop_does_not_keep_the_worker(app: SampleApp) -> None:
    conf = {"worker_pool_drain_timeout": 0, "worker_pool_cleanup_timeout": 0.3}
    with app.worker("-c", "1", **conf) as worker:
        sent = app.send("block", 60)
        wait_until(lambda: app.inspect(worker, "active"), "the task in flight")
        assert worker.stop() == 0
    assert_requeued(app, sent.id)


def test_early_acknowledged_task_is_cancelled_and_does_not_go_back(app: SampleApp) -> None:
    with app.worker("-c", "1", worker_pool_drain_timeout=0) as worker:
        sent = app.send("hold_early", "a")
        app.wait_for_note("start a")
        assert worker.stop() == 0
        assert f"cancelling a shutdown {sent.id}" not in app.notes()  # hold's own request is none
        assert "cancelled a shutdown" in app.notes()
        assert sent.state == "RETRY"  # as in Celery's cold shutdown
    assert_requeued(app)


@pytest.mark.parametrize("remap", [False, True])
def test_further_sigterms_do_not_hurry_a_drain(app: SampleApp, remap: bool) -> None:
    # A supervisor may send it twice, for instance to a process and to its group.
    worker = app.worker("-c", "1", worker_pool_drain_timeout=60)
    worker.env["REMAP_SIGTERM"] = "SIGQUIT" if remap else ""
    with worker:
        sent = app.send("hold", "a")
        waiting = app.send("hold", "b")
        app.wait_for_note("start a")
        worker.send_signal(signal.SIGTERM)
        # The drain has begun: what waits has gone back.
        wait_until(lambda: waiting.id in app.queued(), "the message of b")
        for _ in range(3):
            worker.send_signal(signal.SIGTERM)
        app.release("a")
        assert sent.get() == "a"
        assert worker.wait() == 0
        assert "cancelled a shutdown" not in app.notes()
    assert_requeued(app, waiting.id)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_second_signal_ends_the_drain(app: SampleApp, number: signal.Signals) -> None:
    with app.worker("-c", "1") as worker:
        sent = app.send("hold", "a")
        app.wait_for_note("start a")
        worker.send_signal(signal.SIGINT)
        worker.wait_for_log("Hitting Ctrl+C")
        worker.send_signal(number)
        worker.wait()
        assert "cancelled a shutdown" in app.notes()
        assert "Traceback" not in worker.log
    assert_requeued(app, sent.id)


def test_third_signal_does_not_wait_for_the_clean_up(app: SampleApp) -> None:
    with app.worker("-c", "1", worker_pool_cleanup_timeout=600) as worker:
        sent = app.send("never_stop", "a")
        app.wait_for_note("start a")
        worker.send_signal(signal.SIGTERM)
        worker.wait_for_log("Warm shutdown")
        worker.send_signal(signal.SIGINT)
        worker.wait_for_log("Cancelling 1 tasks")
        worker.send_signal(signal.SIGINT)
        worker.wait()
    assert_requeued(app, sent.id)


@pytest.mark.parametrize("remap", [False, True])
def test_cold_shutdown_requeues(app: SampleApp, remap: bool) -> None:
    worker = app.worker("-c", "1", "--prefetch-multiplier", "3")
    worker.env["REMAP_SIGTERM"] = "SIGQUIT" if remap else ""
    with worker:
        running = app.send("hold", "a", 60, 0.2)
        waiting = app.send("hold", "b")
        worker.wait_for_log(f"[{waiting.id}] received")
        app.wait_for_note("start a")
        worker.stop(signal.SIGTERM if remap else signal.SIGQUIT)
        assert "cancelled a shutdown" in app.notes()
        assert "NotImplementedError" not in worker.log
        assert "Traceback" not in worker.log
    assert sorted(app.queued()) == sorted([running.id, waiting.id])
    assert_requeued(app, *app.queued())


def test_soft_shutdown_lets_tasks_finish_and_requeues_the_rest(app: SampleApp) -> None:
    with app.worker("-c", "2", worker_soft_shutdown_timeout=1.5) as worker:
        quick = app.send("hold", "a")
        early = app.send("hold_early", "b")
        app.wait_for_note("start b")
        worker.send_signal(signal.SIGQUIT)
        worker.wait_for_log("Initiating Soft Shutdown")
        app.release("a")
        assert quick.get() == "a"
        app.release("b")
        assert early.get() is None
        worker.wait()
        assert "Traceback" not in worker.log
        # Celery's handler sleeps until now, and must not take what has ended for cancelled.
        assert (quick.state, early.state) == ("SUCCESS", "SUCCESS")
    assert_requeued(app)


def test_soft_shutdown_requeues_what_does_not_finish(app: SampleApp) -> None:
    with app.worker("-c", "2", worker_soft_shutdown_timeout=0.3) as worker:
        sent = app.send("hold", "a", 60, 0.2)
        app.wait_for_note("start a")
        worker.stop(signal.SIGQUIT)
        assert "cancelled a shutdown" in app.notes()
        assert "NotImplementedError" not in worker.log
    assert_requeued(app, sent.id)


def test_cold_shutdown_during_a_drain_requeues(app: SampleApp) -> None:
    with app.worker("-c", "1") as worker:
        sent = app.send("hold", "a")
        app.wait_for_note("start a")
        worker.send_signal(signal.SIGTERM)
        worker.wait_for_log("Warm shutdown")
        worker.stop(signal.SIGQUIT)
        assert "cancelled a shutdown" in app.notes()
    assert_requeued(app, sent.id)


def test_soft_shutdown_requeues_without_the_visibility_timeout(
    app: SampleApp,
) -> None:
    with app.worker("-c", "2", worker_soft_shutdown_timeout=0.5) as worker:
        short, long = app.send("hold", "short"), app.send("hold", "long")
        app.wait_for_note("start long")
        app.wait_for_note("start short")
        worker.send_signal(signal.SIGQUIT)
        worker.wait_for_log("Initiating Soft Shutdown")
        app.release("short")
        worker.wait()
    assert short.get() == "short"
    assert_requeued(app, long.id)
    app.release("long")
    with app.worker("-c", "2"):  # by its default the timeout is an hour
        assert long.get() == "long"


def test_idle_worker_ends_at_once_with_exit_code_0(app: SampleApp) -> None:
    with app.worker("-c", "1") as worker:
        assert worker.stop() == 0
        assert "Traceback" not in worker.log
