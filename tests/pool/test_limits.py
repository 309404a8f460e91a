"""The number of tasks in flight, and the tasks that wait for a slot."""

import time
from collections.abc import Iterator

import pytest

from tests.support.sample_app import SampleApp, TaskFailed, sample_app
from tests.support.workers import WorkerProcess, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def app(real_redis_url: str) -> Iterator[SampleApp]:
    with sample_app(real_redis_url) as client:
        yield client


def hold(app: SampleApp, *names: str) -> list[str]:
    return [app.send("hold", name).id for name in names]


def wait_for_received(worker: WorkerProcess, ids: list[str]) -> None:
    for each in ids:
        worker.wait_for_log(f"[{each}] received")


def starts(app: SampleApp) -> list[str]:
    return [note.split()[1] for note in app.notes() if note.startswith("start")]


def test_more_tasks_than_slots_wait_and_start_in_order(app: SampleApp) -> None:
    with app.worker("-c", "2", "--prefetch-multiplier", "3") as worker:
        ids = hold(app, "a", "b", "c", "d", "e")
        wait_for_received(worker, ids)
        app.wait_for_note("start b")
        assert {each["id"] for each in app.inspect(worker, "active")} == set(ids[:2])
        assert {each["id"] for each in app.inspect(worker, "reserved")} == set(ids[2:])
        assert app.inspect(worker, "stats")["pool"]["waiting"] == 3
        for ended, started in (("a", "c"), ("b", "d"), ("c", "e")):
            app.release(ended)
            app.wait_for_note(f"start {started}")
        assert starts(app) == ["a", "b", "c", "d", "e"]


def test_prefetch_keeps_the_rest_in_the_queue(app: SampleApp) -> None:
    with app.worker("-c", "2") as worker:
        ids = hold(app, "a", "b", "c", "d")
        app.wait_for_note("start b")
        app.inspect(worker, "active")  # a round trip through the worker's main thread
        assert app.queued() == ids[2:]


@pytest.mark.parametrize("terminate", [False, True])
def test_task_revoked_while_it_waits_never_starts(app: SampleApp, terminate: bool) -> None:
    with app.worker("-c", "1", "--prefetch-multiplier", "4") as worker:
        sent = [app.send("hold", name) for name in ("a", "b", "c")]
        wait_for_received(worker, [each.id for each in sent])
        app.control(worker, "revoke", task_id=sent[1].id, terminate=terminate)
        app.release("a")
        app.wait_for_note("start c")
        assert starts(app) == ["a", "c"]
        with pytest.raises(TaskFailed, match="REVOKED"):
            sent[1].get()
        app.release("c")
        wait_until(lambda: not app.unacked(), "all acknowledged")


def test_task_that_expires_while_it_waits_never_starts(app: SampleApp) -> None:
    with app.worker("-c", "1", "--prefetch-multiplier", "4") as worker:
        hold(app, "a")
        app.wait_for_note("start a")
        late = app.send("hold", "b", expires=1.0)
        expired_at = time.monotonic() + 1.0
        last = app.send("hold", "c")
        wait_for_received(worker, [late.id, last.id])
        wait_until(lambda: time.monotonic() > expired_at, "the expiry")
        app.release("a")
        app.wait_for_note("start c")
        assert starts(app) == ["a", "c"]
        assert late.state == "REVOKED"


@pytest.mark.parametrize("how", ["expires", "revoke"])
def test_task_that_waits_for_a_blocked_loop_is_discarded(app: SampleApp, how: str) -> None:
    # With 20 slots all are accepted at once; one that blocks the loop keeps the others waiting.
    with app.worker("-c", "20") as worker:
        blocker = app.send("block", 3)
        worker.wait_for_log(f"[{blocker.id}] received")
        late = app.send("hold", "late", **({"expires": 0.5} if how == "expires" else {}))
        last = app.send("add", 1, 2)
        wait_for_received(worker, [late.id, last.id])
        if how == "revoke":
            app.celery.control.revoke(late.id)
        assert last.get() == 3
        wait_until(lambda: late.state == "REVOKED", "the end of the late task")
        assert starts(app) == []
        wait_until(lambda: app.unacked() == 0, "all messages acknowledged")


def test_inspect_stats_has_what_the_stats_of_other_pools_have(app: SampleApp) -> None:
    with app.worker("-c", "3", "--soft-time-limit", "5", "--time-limit", "7") as worker:
        pool = app.inspect(worker, "stats")["pool"]
        assert pool == {
            "implementation": "berlin_worker.pool.pool:AsyncioPool",
            "max-concurrency": 3,
            "processes": [worker.process.pid],
            "max-tasks-per-child": "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": [5, 7],
            "in-flight": 0,
            "waiting": 0,
            "event-loop": pool["event-loop"],
        }


def test_pool_grows_and_shrinks_by_remote_control(app: SampleApp) -> None:
    with app.worker("-c", "1", "--prefetch-multiplier", "4") as worker:
        hold(app, "a", "b", "c", "d")
        app.wait_for_note("start a")
        app.control(worker, "pool_grow", n=2)
        app.wait_for_note("start c")
        assert starts(app) == ["a", "b", "c"]
        app.control(worker, "pool_shrink", n=2)
        pool = app.inspect(worker, "stats")["pool"]
        assert (pool["max-concurrency"], pool["in-flight"]) == (1, 3)
        app.release("a")
        app.release("b")
        wait_until(
            lambda: app.inspect(worker, "stats")["pool"]["in-flight"] == 1, "two tasks ended"
        )
        assert starts(app) == ["a", "b", "c"]
        app.release("c")
        app.wait_for_note("start d")


def test_pool_does_not_shrink_below_zero(app: SampleApp) -> None:
    with app.worker("-c", "1") as worker:
        assert "cannot take 2" in str(app.control(worker, "pool_shrink", n=2))
        assert app.run("add", 1, 2) == 3


def test_autoscale_starts_more_tasks_under_load(app: SampleApp) -> None:
    with app.worker("--autoscale", "3,1"):
        hold(app, "a", "b", "c")
        for name in ("a", "b", "c"):
            app.wait_for_note(f"start {name}")


def test_without_a_hub_tasks_run_wait_and_drain_too(
    app: SampleApp, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("broker"))
    options = {
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": str(tmp_path_factory.mktemp("control")),
    }
    with (
        sample_app(app.url, "filesystem://", broker_transport_options=options) as client,
        client.worker("-c", "2", "--prefetch-multiplier", "2") as worker,
    ):
        assert client.run("add", 1, 2) == 3
        hold(client, "a", "b", "c")
        wait_until(lambda: len(starts(client)) == 2, "two tasks in flight")
        for name in starts(client):
            client.release(name)
        wait_until(lambda: len(starts(client)) == 3, "the third task in flight")
        client.release(starts(client)[2])
        client.wait_for_note(f"end {starts(client)[2]}")
        assert worker.stop() == 0


def test_same_tasks_run_in_another_pool(app: SampleApp) -> None:
    with app.worker("--pool", "solo"):
        assert app.run("add", 1, 2) == 3
        assert app.run("retry_twice") == 2
