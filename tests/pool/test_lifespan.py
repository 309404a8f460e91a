"""The lifespan around all tasks of a worker, its event loop, and its connection to the broker."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from berlin_worker.embedded.redis_server import RedisProcess, find_server
from tests.support.sample_app import LIFESPANS, SampleApp, sample_app
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def app(real_redis_url: str) -> Iterator[SampleApp]:
    with sample_app(real_redis_url) as client:
        yield client


def test_lifespan_surrounds_all_tasks_in_one_asyncio_task(app: SampleApp) -> None:
    early = app.send("hold", "a")
    with app.worker("-c", "1", worker_pool_lifespan=f"{LIFESPANS}:lifespan") as worker:
        app.wait_for_note("start a")
        worker.send_signal(signal.SIGTERM)
        worker.wait_for_log("Warm shutdown")
        app.release("a")
        assert worker.wait() == 0
    assert early.get() == "a"
    assert app.notes() == ["lifespan-enter sample", "start a", "end a", "lifespan-exit same-task"]


@pytest.mark.parametrize("name", ["failing_lifespan", "no_such_name"])
def test_lifespan_that_fails_ends_the_worker_with_one_line(app: SampleApp, name: str) -> None:
    worker = app.worker("-c", "1", wait=False, worker_pool_lifespan=f"{LIFESPANS}:{name}")
    with worker:
        assert worker.wait() != 0
        lines = [line for line in worker.log.splitlines() if "cannot start" in line]
        assert len(lines) == 1
        assert "Traceback" not in worker.log
        if name == "failing_lifespan":
            assert lines[0].endswith("The worker cannot start: no token for you")


@pytest.mark.parametrize(
    ("name", "line"),
    [("failing_exit", "cannot let go"), ("hanging_exit", "still holds the event loop")],
)
def test_lifespan_that_fails_on_its_way_out_does_not_keep_the_worker(
    app: SampleApp, name: str, line: str
) -> None:
    conf = {"worker_pool_lifespan": f"{LIFESPANS}:{name}", "worker_pool_cleanup_timeout": 0.3}
    with app.worker("-c", "1", **conf) as worker:
        assert worker.stop() == 0
        assert line in worker.log


def test_lifespan_that_hangs_can_be_interrupted(app: SampleApp) -> None:
    conf = {"worker_pool_lifespan": f"{LIFESPANS}:hanging_lifespan"}
    with app.worker("-c", "1", wait=False, **conf) as worker:
        app.wait_for_note("lifespan-hangs")
        assert worker.stop(signal.SIGTERM) == 0


def test_loop_that_dies_takes_the_worker_down_and_requeues(app: SampleApp) -> None:
    with app.worker("-c", "1", worker_pool_lifespan=f"{LIFESPANS}:crashing_lifespan") as worker:
        sent = app.send("hold", "a")
        app.wait_for_note("start a")
        app.redis.rpush("crash", 1)
        assert worker.wait() != 0
        assert "The event loop of the pool has ended" in worker.log
        assert "the heart stopped" in worker.log
        assert "cancelled a shutdown" in app.notes()
    assert (app.unacked(), app.queued()) == (0, [sent.id])


def test_loop_of_the_standard_library_runs_limits_and_cancels_tasks(
    app: SampleApp, tmp_path: Path
) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('not installed')")
    worker = app.worker("-c", "2", worker_pool_drain_timeout=0)
    worker.env["PYTHONPATH"] += f":{tmp_path}"
    with worker:
        assert app.inspect(worker, "stats")["pool"]["event-loop"].startswith("asyncio")
        assert app.run("escape_in_child", "SystemExit") == "survived"
        assert app.run("soft_limited_group") == "caught"
        app.send("hold", "a")
        app.wait_for_note("start a")
        assert worker.stop() == 0
        assert "cancelled a shutdown" in app.notes()


def cut_connections(app: SampleApp) -> None:
    app.redis.client_kill_filter(_type="normal", skipme=True)
    app.redis.client_kill_filter(_type="pubsub", skipme=True)


def test_lost_connection_cancels_tasks_if_celery_is_configured_so(app: SampleApp) -> None:
    conf = {"worker_cancel_long_running_tasks_on_connection_loss": True}
    with app.worker("-c", "1", **conf) as worker:
        sent = app.send("hold", "a")
        app.wait_for_note("start a")
        cut_connections(app)
        app.wait_for_note("cancelled a connection_lost")
        app.wait_for_note("start a", times=2)
        app.release("a")
        wait_until(lambda: sent.state == "SUCCESS", "the second run")
        assert "NotImplementedError" not in worker.log


def test_lost_connection_leaves_tasks_alone_by_default(app: SampleApp) -> None:
    with app.worker("-c", "2") as worker:
        sent = app.send("hold", "a")
        app.wait_for_note("start a")
        cut_connections(app)
        worker.wait_for_log("Connected to", times=2)
        app.release("a")
        wait_until(lambda: sent.state == "SUCCESS", "the first run")
        assert not [note for note in app.notes() if note.startswith("cancel")]
        assert app.run("add", 1, 2) == 3


def test_task_waiting_for_a_slot_runs_once_after_a_lost_connection(app: SampleApp) -> None:
    with app.worker("-c", "1", "--prefetch-multiplier", "3") as worker:
        app.send("hold", "a")
        waiting = app.send("hold", "b")
        worker.wait_for_log(f"[{waiting.id}] received")
        cut_connections(app)
        worker.wait_for_log(f"[{waiting.id}] received", times=2)
        app.release("a")
        app.release("b")
        app.wait_for_note("end b")
        wait_until(lambda: not app.unacked() and not app.queued(), "an empty broker")
        assert app.notes().count("start b") == 1


def test_connection_lost_during_the_drain_does_not_stop_the_drain(app: SampleApp) -> None:
    with app.worker("-c", "1") as worker:
        sent = app.send("hold", "a")
        app.wait_for_note("start a")
        worker.send_signal(signal.SIGTERM)
        worker.wait_for_log("Warm shutdown")
        cut_connections(app)
        app.release("a")
        assert sent.get() == "a"
        assert worker.wait() == 0


@pytest.fixture
def broker() -> Iterator[RedisProcess]:
    """A broker that a test may kill; notes and results are elsewhere."""
    binary = find_server()
    if binary is None:
        pytest.skip("needs a server of its own")
    with RedisProcess(binary) as server:
        yield server


def test_worker_ends_although_its_broker_is_gone(real_redis_url: str, broker: RedisProcess) -> None:
    with (
        sample_app(real_redis_url, broker.url, worker_pool_drain_timeout=0.5) as app,
        app.worker("-c", "20") as worker,
    ):
        for n in range(20):
            app.send("hold", f"n{n}")
        app.wait_for_note("start n19")
        worker.send_signal(signal.SIGTERM)
        worker.wait_for_log("Warm shutdown")
        broker.kill()
        assert worker.wait() == 0
        assert len([note for note in app.notes() if note.startswith("cancelled")]) == 20


def test_tasks_drain_although_the_broker_was_gone_before(
    real_redis_url: str, broker: RedisProcess
) -> None:
    with sample_app(real_redis_url, broker.url) as app, app.worker("-c", "2") as worker:
        # Acknowledged early: with a message in hand, kombu 5.7 ends the worker when the broker
        # goes (AttributeError in restore_unacked).
        sent = app.send("hold_early", "a")
        app.wait_for_note("start a")
        broker.kill()
        worker.wait_for_log("Trying again in")
        worker.send_signal(signal.SIGTERM)
        worker.wait_for_log("Warm shutdown")
        app.release("a")
        assert sent.get() is None
        assert worker.wait() == 0
