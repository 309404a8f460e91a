"""Tasks in a real worker with the asyncio pool: what Celery users expect of any pool."""

from collections.abc import Iterator

import pytest
import redis

from berlin_worker.embedded.redis_server import RedisProcess
from tests.support.sample_app import SampleApp, Sent, TaskFailed, sample_app
from tests.support.workers import WorkerProcess, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def pair(redis_server: RedisProcess) -> Iterator[tuple[SampleApp, WorkerProcess]]:
    """One worker for all tests of the module: none of them changes it for good."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    with sample_app(redis_server.url) as client, client.worker("-c", "100") as worker:
        yield client, worker


@pytest.fixture
def app(pair: tuple[SampleApp, WorkerProcess]) -> SampleApp:
    return pair[0]


@pytest.fixture
def worker(pair: tuple[SampleApp, WorkerProcess]) -> WorkerProcess:
    return pair[1]


def test_coroutine_returns_its_result(app: SampleApp) -> None:
    assert app.run("add", 1, 2) == 3


def test_plain_function_runs_on_the_thread_of_the_loop(app: SampleApp) -> None:
    assert app.run("add_in_sync", 1, 2) == "3 in asyncio-pool"


def test_coroutine_and_its_children_see_their_request(app: SampleApp) -> None:
    sent = app.send("who_am_i")
    found = sent.get()
    assert found["thread"] == "asyncio-pool"
    assert {found[key] for key in ("request", "current_task", "child", "asyncio_task")} == {sent.id}


def test_task_that_a_coroutine_sends_knows_its_parent(app: SampleApp) -> None:
    sent = app.send("who_am_i")
    child = Sent(sent.get()["sent"], app)
    assert child.get() == sent.id


def test_task_can_await_another_task_as_a_function(app: SampleApp) -> None:
    assert app.run("call_another") == 5


def test_context_variables_of_tasks_are_isolated(app: SampleApp) -> None:
    sent = [app.send("isolated", f"n{n}") for n in range(20)]
    assert [each.get() for each in sent] == [["unset", f"n{n}"] for n in range(20)]


def test_signals_surround_the_coroutine_and_share_its_context(app: SampleApp) -> None:
    sent = app.send("signalled")
    assert sent.get() == "from-prerun"
    app.wait_for_note(f"postrun {sent.id} SUCCESS from-prerun")
    assert f"prerun {sent.id}" in app.notes()


def test_traceback_has_two_lines_of_the_bridge_and_then_the_users_code(app: SampleApp) -> None:
    sent = app.send("fail", "boom")
    with pytest.raises(TaskFailed, match=r"ValueError.*boom"):
        sent.get()
    files = [
        line for line in sent.meta["traceback"].splitlines() if line.lstrip().startswith("File ")
    ]
    ours = [line for line in files if "/worker/berlin_worker/pool/" in line]
    assert len(ours) == 2
    assert "pool_app.py" in files[-1]
    assert files.index(ours[-1]) == len(files) - 2


def test_retry_and_autoretry_work_in_a_coroutine(app: SampleApp) -> None:
    assert app.run("retry_twice") == 2
    assert app.run("autoretry") == 1


def test_task_of_a_class_is_retried_by_the_app_of_the_worker(app: SampleApp) -> None:
    assert app.run("retry_in_a_class") == "1 in sample"


def test_ignored_result_is_not_stored(app: SampleApp, worker: WorkerProcess) -> None:
    sent = app.send("ignored_result")
    worker.wait_for_log(f"ignored_result[{sent.id}] succeeded")
    assert not app.redis.exists(f"celery-task-meta-{sent.id}")


@pytest.mark.parametrize("kind", ["ignore", "reject"])
def test_ignore_and_reject_take_the_message_off_the_queue(app: SampleApp, kind: str) -> None:
    sent = app.send("predicate", kind)
    app.wait_for_note(f"{kind} {sent.id}")
    wait_until(lambda: not app.unacked() and not app.queued(), "an empty broker")
    assert app.notes().count(f"{kind} {sent.id}") == 1


def test_reject_with_requeue_delivers_again(app: SampleApp) -> None:
    assert app.run("requeue_once") == "redelivered"


ESCAPES = (
    *("CancelledError", "KeyboardInterrupt", "SystemExit", "GreenletExit"),
    *("WorkerShutdown", "MemoryError"),
)


@pytest.mark.parametrize("task", ["escape", "escape_in_sync"])
@pytest.mark.parametrize("name", ESCAPES)
def test_exception_that_ends_a_process_ends_the_task_alone(
    app: SampleApp, task: str, name: str
) -> None:
    with pytest.raises(TaskFailed, match=name):
        app.run(task, name)
    assert app.run("add", 1, 2) == 3
    wait_until(lambda: not app.unacked(), "the message acknowledged")


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "SystemExit", "WorkerShutdown"])
def test_loop_survives_what_a_child_of_a_task_raises(app: SampleApp, name: str) -> None:
    assert app.run("escape_in_child", name) == "survived"


def test_soft_limit_is_raised_in_the_coroutine(app: SampleApp) -> None:
    assert app.run("soft_limited", True).startswith("caught")
    with pytest.raises(TaskFailed, match="SoftTimeLimitExceeded"):
        app.run("soft_limited", False)


def test_soft_limit_ends_the_children_of_a_task_group(app: SampleApp) -> None:
    assert app.run("soft_limited_group") == "caught"
    app.wait_for_note("child time_limit")


def test_hard_limit_fails_the_task_and_cancels_the_coroutine(
    app: SampleApp, worker: WorkerProcess
) -> None:
    sent = app.send("hard_limited", "hard")
    with pytest.raises(TaskFailed, match="TimeLimitExceeded"):
        sent.get()
    app.wait_for_note("cancelled hard time_limit")
    wait_until(lambda: not app.unacked(), "the message acknowledged")
    worker.wait_for_log("Hard time limit (0.2s) exceeded")


def test_limits_can_be_given_with_the_message(app: SampleApp) -> None:
    with pytest.raises(TaskFailed, match="TimeLimitExceeded"):
        app.run("hold", "limited", time_limit=0.1)


def test_revoked_task_that_runs_is_cancelled_and_does_not_run_again(
    app: SampleApp, worker: WorkerProcess
) -> None:
    sent = app.send("hold", "revoked")
    app.wait_for_note("start revoked")
    sent.terminate()
    with pytest.raises(TaskFailed, match="REVOKED"):
        sent.get()
    app.wait_for_note("cancelled revoked revoked")
    wait_until(lambda: not app.unacked() and not app.queued(), "an empty broker")
    assert app.notes().count("start revoked") == 1
    # Again, for a task that has ended.
    assert app.control(worker, "revoke", task_id=sent.id, terminate=True)["ok"]


def test_children_receive_the_cause_of_their_cancellation(app: SampleApp) -> None:
    sent = app.send("cause_in_child", "kid")
    app.wait_for_note("start kid")
    sent.terminate()
    app.wait_for_note("child kid revoked")


def test_failure_while_cleaning_up_is_logged_and_does_not_undo_the_revocation(
    app: SampleApp, worker: WorkerProcess
) -> None:
    sent = app.send("fail_in_cleanup", "messy")
    app.wait_for_note("start messy")
    sent.terminate()
    worker.wait_for_log(f"Task {sent.id} failed while cleaning up")
    app.run("add", 1, 1)  # after that the consumer has handled the first task
    assert sent.state == "REVOKED"


def test_inspect_shows_active_tasks(app: SampleApp, worker: WorkerProcess) -> None:
    sent = app.send("hold", "inspected")
    app.wait_for_note("start inspected")
    (active,) = app.inspect(worker, "active")
    assert (active["id"], active["acknowledged"]) == (sent.id, False)
    pool = app.inspect(worker, "stats")["pool"]
    assert pool["implementation"] == "berlin_worker.pool.pool:AsyncioPool"
    assert (pool["max-concurrency"], pool["in-flight"], pool["waiting"]) == (100, 1, 0)
    app.release("inspected")
    assert sent.get() == "inspected"
