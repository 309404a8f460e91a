"""The asyncio pool's tasks without a pool: called directly, eagerly, or in another pool."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery, Task
from celery.worker import state
from celery.worker.request import Request

from berlin_worker.pool import AsyncioPool, AsyncioRequest, AsyncioTask, cancel_cause
from berlin_worker.pool.task import discard_of

pytestmark = pytest.mark.unit


@pytest.fixture
def app() -> Celery:
    app = Celery("eager", task_cls=AsyncioTask, set_as_current=False)
    app.conf.task_always_eager = True
    return app


@pytest.fixture
def double(app: Celery) -> Task:
    @app.task(shared=False)
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    return double


async def test_direct_call_is_awaited_like_the_function(double: Task) -> None:
    assert await double(2) == 4


def test_direct_call_without_a_loop_gives_the_coroutine(double: Task) -> None:
    assert asyncio.run(double(2)) == 4


def test_eager_task_runs_in_a_loop_of_its_own(double: Task) -> None:
    assert double.delay(2).get() == 4
    assert double.apply((3,)).get() == 6


def test_eager_task_fails_with_its_own_exception(app: Celery) -> None:
    @app.task(shared=False)
    async def fail() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail.delay().get()


def test_autoretry_sees_the_exception_of_an_eager_coroutine(app: Celery) -> None:
    attempts = []

    @app.task(
        shared=False, bind=True, autoretry_for=(ValueError,), max_retries=2, default_retry_delay=0
    )
    async def flaky(self: Task) -> int:
        await asyncio.sleep(0)
        attempts.append(self.request.retries)
        if self.request.retries < 2:
            raise ValueError("once more")
        return 7

    assert flaky.delay().get() == 7
    assert attempts == [0, 1, 2]


def test_class_based_task_may_be_a_coroutine(app: Celery) -> None:
    class Triple(app.Task):  # type: ignore[name-defined]  # made by Celery at run time
        name = "triple"

        async def run(self, n: int) -> int:
            await asyncio.sleep(0)
            return 3 * n

    assert app.register_task(Triple()).delay(2).get() == 6


def test_signature_of_a_task_is_checked_as_ever(double: Task) -> None:
    with pytest.raises(TypeError):
        double.delay()


def test_no_cancellation_is_pending_outside_of_a_task() -> None:
    assert cancel_cause() is None


def test_celery_finds_the_pool_by_its_name() -> None:
    from celery.concurrency import get_implementation

    found: Any = get_implementation("berlin_worker.pool:AsyncioPool")
    assert found is AsyncioPool


def test_broker_that_has_failed_is_not_tried_again_and_the_next_one_is() -> None:
    def request(channel: Any) -> Any:
        made = AsyncioRequest.__new__(AsyncioRequest)
        made.id, made.acknowledged = "one", False
        made._connection_errors, made._eventer = (ConnectionError,), None
        made._message = SimpleNamespace(channel=channel, reject=channel.reject)
        return made

    dead, alive = Mock(spec=["reject"]), Mock(spec=["reject"])
    dead.reject.side_effect = ConnectionError("gone")
    for channel in (dead, dead, alive):
        request(channel).requeue_job()
    assert (dead.reject.call_count, alive.reject.call_count) == (1, 1)


@pytest.mark.parametrize("n", [-1, 0.5, "2", None, float("nan")])
def test_pool_takes_no_odd_number_of_slots(n: Any) -> None:
    pool = AsyncioPool.__new__(AsyncioPool)  # without its sockets
    pool.limit = 2
    for change in (pool.grow, pool.shrink):
        with pytest.raises(ValueError, match="a number of slots"):
            change(n)
    assert pool.limit == 2


@pytest.mark.parametrize(
    ("expires_in_s", "revoked", "stamp", "discarded"),
    [
        (None, None, None, False),
        (60, None, None, False),
        (-1, None, None, True),
        (None, "one", None, True),
        (None, "other", None, False),
        (None, None, "a", True),
        (None, None, "b", False),
    ],
)
def test_task_that_must_not_start_any_more_is_discarded(
    monkeypatch: pytest.MonkeyPatch,
    expires_in_s: float | None,
    revoked: str | None,
    stamp: str | None,
    discarded: bool,
) -> None:
    monkeypatch.setattr(state, "revoked", {revoked})
    monkeypatch.setattr(state, "revoked_stamps", {"tenant": stamp} if stamp else {})
    request = Request.__new__(Request)
    now = datetime.now(UTC)
    request._expires = None if expires_in_s is None else now + timedelta(seconds=expires_in_s)
    request.id = "one"
    request._request_dict = {"stamped_headers": ["tenant"], "stamps": {"tenant": ["a", "c"]}}
    assert (discard_of(request) is not None) is discarded
