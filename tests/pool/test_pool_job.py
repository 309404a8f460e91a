"""One task in flight, without Celery: when it starts, ends, and what is reported."""

import asyncio
import functools
import gc
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery.exceptions import SoftTimeLimitExceeded, WorkerLostError

from berlin_worker.pool import CancelCause, cancel_cause
from berlin_worker.pool.context import Requeued, current_job
from berlin_worker.pool.job import Job
from tests.support.waiting import until

pytestmark = pytest.mark.unit


class Harness:
    """Runs jobs in the test's own loop and notes what they report."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.results: list[Any] = []
        self.failures: list[BaseException] = []
        self.limits: list[tuple[bool, float]] = []
        self.ended = asyncio.Event()
        self.silent = 0

    def job(self, trace: Callable[["Harness"], Any], **limits: float) -> Job:
        def on_end(job: Job, report: Callable[[], None] | None) -> None:
            if report:
                report()
            else:
                self.silent += 1
            self.ended.set()

        self._job = Job(
            7,
            "id",
            lambda: trace(self),
            on_success=self.results.append,
            on_failure=self.fail,
            on_end=on_end,
            on_limit=lambda *limit: self.limits.append(limit),
            **limits,
        )
        return self._job

    def wait_for(self, coro: Any) -> Any:
        return self._job.result_of(coro)

    def fail(self, info: ExceptionInfo) -> None:
        error = info.exception
        self.failures.append(getattr(error, "exc", error))

    def cancel(self, cause: CancelCause) -> bool:
        return self._job.cancel(cause, self.loop.call_soon)


@pytest.fixture
async def harness() -> Harness:
    return Harness()


async def never() -> None:
    await asyncio.Event().wait()


async def test_body_that_awaits_twice_gets_both_results(harness: Harness) -> None:
    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    job = harness.job(lambda h: h.wait_for(add(h.wait_for(add(1, 2)), 3)))
    job.start(harness.loop)
    await harness.ended.wait()
    assert harness.results == [6]
    assert job.ended


async def test_plain_body_ends_before_start_returns(harness: Harness) -> None:
    harness.job(lambda h: "done").start(harness.loop)
    assert harness.results == ["done"]


class Held:
    """An object that a frame of the task holds."""


async def test_failed_task_leaves_no_frames_for_the_garbage_collector(harness: Harness) -> None:
    held: list[weakref.ref[Held]] = []

    async def fail(*, because: bool) -> None:
        local = Held()
        held.append(weakref.ref(local))
        try:
            await asyncio.sleep(0)
            raise ValueError("first")
        except ValueError as error:
            raise KeyError("second") from (error if because else None)

    def tracer(h: Harness, *, because: bool) -> tuple[int, ExceptionInfo, float]:
        try:
            h.wait_for(fail(because=because))
        except KeyError:
            return 1, ExceptionInfo(), 0.0
        return pytest.fail("it did not raise")

    gc.disable()
    try:
        for because in (True, False):
            harness.ended.clear()
            harness.job(functools.partial(tracer, because=because)).start(harness.loop)
            await harness.ended.wait()
        await until(lambda: [ref() for ref in held] == [None, None])
    finally:
        gc.enable()
    assert [type(info.exception.exc) for _, info, _ in harness.results] == [KeyError] * 2
    assert "second" in harness.results[0][1].traceback


async def test_job_is_known_in_the_body_the_coroutine_and_its_threads(
    harness: Harness,
) -> None:
    async def coroutine() -> list[Job | None]:
        return [current_job(), await asyncio.to_thread(current_job)]

    job = harness.job(lambda h: [current_job(), *h.wait_for(coroutine())])
    job.start(harness.loop)
    await harness.ended.wait()
    assert harness.results == [[job, job, job]]
    assert current_job() is None


@pytest.mark.parametrize("cause", CancelCause)
async def test_job_cancelled_before_it_starts_never_runs(
    harness: Harness, cause: CancelCause
) -> None:
    job = harness.job(lambda h: pytest.fail("it ran"))
    assert harness.cancel(cause)
    job.start(harness.loop)
    requeued = [type(each) for each in harness.failures] == [Requeued]
    assert (requeued, harness.silent) == (
        (True, 0) if cause is CancelCause.SHUTDOWN else (False, 1)
    )


async def test_coroutine_cancelled_before_its_first_step_never_runs(harness: Harness) -> None:
    async def coroutine() -> None:
        pytest.fail("it ran")

    harness.job(lambda h: h.wait_for(coroutine())).start(harness.loop)
    assert harness.cancel(CancelCause.SHUTDOWN)
    await harness.ended.wait()
    assert [type(each) for each in harness.failures] == [Requeued]


async def test_cancel_cause_is_available_while_the_coroutine_cleans_up(harness: Harness) -> None:
    causes: list[CancelCause | None] = []

    async def coroutine() -> None:
        causes.append(cancel_cause())
        try:
            await never()
        finally:
            causes.append(cancel_cause())

    harness.job(lambda h: h.wait_for(coroutine())).start(harness.loop)
    await asyncio.sleep(0)
    assert harness.cancel(CancelCause.REVOKED)
    assert not harness.cancel(CancelCause.SHUTDOWN)
    await harness.ended.wait()
    assert causes == [None, CancelCause.REVOKED]
    assert harness.silent == 1
    assert not harness.cancel(CancelCause.REVOKED)


@pytest.mark.parametrize("cause", CancelCause)
async def test_only_at_a_shutdown_a_cancelled_coroutine_may_still_finish(
    harness: Harness, cause: CancelCause
) -> None:
    async def coroutine() -> str:
        try:
            await never()
        except asyncio.CancelledError:
            return "finished"
        return "never"

    harness.job(lambda h: h.wait_for(coroutine())).start(harness.loop)
    await asyncio.sleep(0)
    harness.cancel(cause)
    await harness.ended.wait()
    assert harness.results == (["finished"] if cause is CancelCause.SHUTDOWN else [])


async def test_coroutine_that_cancels_itself_has_failed(harness: Harness) -> None:
    async def coroutine() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    harness.job(lambda h: h.wait_for(coroutine())).start(harness.loop)
    await harness.ended.wait()
    (failure,) = harness.failures
    assert "CancelledError" in str(failure)


async def test_limits_are_forgotten_when_the_job_ends(harness: Harness) -> None:
    async def coroutine() -> None:
        await asyncio.sleep(0)

    job = harness.job(lambda h: h.wait_for(coroutine()), soft_limit_s=0.5, hard_limit_s=0.51)
    job.start(harness.loop)
    await harness.ended.wait()
    await asyncio.sleep(0.6)
    assert harness.limits == []
    assert job.cause is None


async def test_hard_limit_ends_a_coroutine_that_ignores_the_soft_one(
    harness: Harness,
) -> None:
    async def coroutine() -> None:
        while True:
            try:
                await never()
            except Exception:  # noqa: BLE001  # as careless as users are
                continue

    harness.job(lambda h: h.wait_for(coroutine()), soft_limit_s=0.01, hard_limit_s=0.05).start(
        harness.loop
    )
    await harness.ended.wait()
    assert harness.limits == [(True, 0.01), (False, 0.05)]
    assert harness.silent == 1


async def test_soft_limit_reached_before_the_first_step_is_raised(harness: Harness) -> None:
    def trace(h: Harness) -> None:
        time.sleep(0.02)  # blocks the loop, as users do
        h.wait_for(never())

    harness.job(trace, soft_limit_s=0.01).start(harness.loop)
    await harness.ended.wait()
    assert [type(each) for each in harness.failures] == [SoftTimeLimitExceeded]


async def test_limit_that_is_no_number_fails_the_task(harness: Harness) -> None:
    limits: dict[str, Any] = {"soft_limit_s": "soon"}
    harness.job(lambda h: pytest.fail("it ran"), **limits).start(harness.loop)
    assert [type(each) for each in harness.failures] == [TypeError]


async def test_exception_that_cannot_be_shown_fails_the_task(harness: Harness) -> None:
    class Shy(BaseException):
        def __repr__(self) -> str:
            raise ValueError("no")

    def trace(h: Harness) -> None:
        raise Shy

    harness.job(trace).start(harness.loop)
    assert [type(each) for each in harness.failures] == [WorkerLostError]
