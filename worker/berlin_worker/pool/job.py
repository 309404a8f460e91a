"""One task in flight: a greenlet for Celery's tracer, an asyncio task for the coroutine.

::

    loop ──start──▶ greenlet: tracer ──▶ task body ──coroutine──▶ loop: asyncio task
                    greenlet: tracer ◀── result or exception ────────────┘
                       └──▶ on_end, once

Everything here runs on the loop's thread, except :meth:`Job.cancel`.
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Generator
from enum import StrEnum
from types import TracebackType, coroutine
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.exceptions import (
    Reject,
    SoftTimeLimitExceeded,
    TaskPredicate,
    WorkerLostError,
)
from celery.utils.saferepr import saferepr
from greenlet import getcurrent, greenlet

logger = logging.getLogger(__name__)


class CancelCause(StrEnum):
    """Why a task is being cancelled."""

    REVOKED = "revoked"
    """By ``revoke --terminate``: it will not run again."""
    SHUTDOWN = "shutdown"
    """The worker stops: another one runs the task again if it is ``acks_late``."""
    TIME_LIMIT = "time_limit"
    """It ran longer than its hard time limit, or (for its child tasks) its soft one."""
    CONNECTION_LOST = "connection_lost"
    """The broker is gone, and gives the message to another worker."""


class Requeued(Reject):  # type: ignore[misc]  # celery has no type information
    """The task was stopped by a shutdown; its message goes back to the queue."""


class _SoftLimit(SoftTimeLimitExceeded, asyncio.CancelledError):  # type: ignore[misc]  # the same
    """Both, because ``TaskGroup`` and its like stop their children on ``CancelledError`` only."""


class JobGreenlet(greenlet):  # type: ignore[misc]  # greenlet has no type information
    job: "Job"


_job_of_context: contextvars.ContextVar["Job"] = contextvars.ContextVar("celery_job")


def current_job() -> "Job | None":
    """The job that the calling coroutine, child task or task body belongs to."""
    if (job := _job_of_context.get(None)) is not None:
        return job
    return getattr(getcurrent(), "job", None)


def stack_owner() -> greenlet | None:
    """The key of Celery's stacks: a coroutine shares those of the greenlet that waits for it."""
    job = _job_of_context.get(None)
    return getcurrent() if job is None else job.greenlet


def cancel_cause() -> CancelCause | None:
    """Why the calling task is being cancelled; ``None`` where it is not, or outside of a task.

    Works in the coroutine of a task and in the asyncio tasks that it started.
    """
    job = current_job()
    if job is None:
        return None
    return CancelCause.TIME_LIMIT if job.soft_limit_hit and job.cause is None else job.cause


class Job:
    """What the pool knows about one task, and how it runs.

    ``on_end`` is called once, in the loop's thread, with the job and what to report to
    Celery, or ``None`` where Celery has been told already. ``on_limit`` is called with
    ``(soft, seconds)`` when a limit has passed. ``discard`` is called before the tracer: what
    it returns, if anything, is reported and the tracer does not run.
    """

    __slots__ = (
        "_awaiting", "_discard", "_hard_limit_s", "_on_end", "_on_failure", "_on_limit",
        "_on_success", "_soft_limit_s", "_task", "_throw_soft_limit", "_timers", "_trace", "cause",
        "ended", "greenlet", "number", "soft_limit_hit", "task_id",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        task_id: str,
        trace: Callable[[], Any],
        *,
        on_success: Callable[[Any], None],
        on_failure: Callable[[ExceptionInfo], None],
        on_end: Callable[["Job", Callable[[], None] | None], None],
        on_limit: Callable[[bool, float], None],
        discard: Callable[[], Callable[[], None] | None] | None = None,
        soft_limit_s: float | None = None,
        hard_limit_s: float | None = None,
    ) -> None:
        self.number = number
        self.task_id = task_id
        self.cause: CancelCause | None = None
        self.ended = False
        self.soft_limit_hit = False
        self.greenlet: JobGreenlet | None = None
        self._trace = trace
        self._on_success = on_success
        self._on_failure = on_failure
        self._on_end = on_end
        self._on_limit = on_limit
        self._discard = discard
        self._soft_limit_s = soft_limit_s
        self._hard_limit_s = hard_limit_s
        self._timers: list[asyncio.TimerHandle] = []
        self._task: asyncio.Task[None] | None = None
        self._awaiting = False
        self._throw_soft_limit = False

    # In any thread.

    def cancel(self, cause: CancelCause, call_soon: Callable[[Callable[[], None]], None]) -> bool:
        """Cancel the coroutine, by way of the loop's thread-safe ``call_soon``.

        False, and nothing is done, if it has ended or is being cancelled already.
        """
        if self.ended or self.cause is not None:
            return False
        self.cause = cause
        call_soon(self._cancel_task)
        return True

    # In the loop's thread.

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the tracer until the body of the task awaits something."""
        if self.cause is not None:  # cancelled on its way here: the tracer never sees it
            self._end(self._handed_back if self.cause is CancelCause.SHUTDOWN else None)
            return
        discard, self._discard = self._discard, None
        if discard is not None and (report := discard()) is not None:
            self._end(report)
            return
        try:
            for limit_s, reached in (
                (self._soft_limit_s, self._soft_limit),
                (self._hard_limit_s, self._hard_limit),
            ):
                if limit_s:
                    self._timers.append(loop.call_later(limit_s, reached))
        except TypeError as error:  # limits come with the message, from anyone
            self._end(self._failure(error))
            return
        self.greenlet = JobGreenlet(self._run)
        self.greenlet.job = self
        self._drive(None, None)

    def result_of(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Await ``coro`` from within the job's greenlet: its result, or its exception."""
        context = contextvars.copy_context()
        context.run(_job_of_context.set, self)
        assert self.greenlet is not None
        assert self.greenlet.parent is not None
        value, error = self.greenlet.parent.switch((coro, context))
        if self.cause is not None:
            error = self._after_cancel(error)
        if error is None:
            return value
        try:
            raise error
        finally:
            del error  # or this frame and the traceback keep each other alive

    def _run(self) -> None:
        report: Callable[[], None] | None = None
        try:
            retval = self._trace()
        except asyncio.CancelledError as error:
            if self.cause is None:
                report = self._failure(error)
            elif self.cause is CancelCause.SHUTDOWN:
                report = self._handed_back
        except BaseException as error:  # noqa: BLE001  # SystemExit and its like end the task alone
            report = self._failure(error)
        else:
            _drop_frames(retval)

            def report() -> None:
                self._on_success(retval)

        self._end(report)

    def _end(self, report: Callable[[], None] | None) -> None:
        self.ended = True
        for timer in self._timers:
            timer.cancel()
        self.greenlet = self._task = None
        self._on_end(self, report)

    def _failure(self, error: BaseException) -> Callable[[], None]:
        # What is no Exception means the end of the process to Celery; here only this task ends.
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            told = WorkerLostError(f"The task was ended by {saferepr(error)}")
            error = told.with_traceback(error.__traceback__)
        info = ExceptionInfo((type(error), error, error.__traceback__))
        return lambda: self._on_failure(info)

    def _handed_back(self) -> None:
        try:
            raise Requeued("the worker is shutting down", requeue=True)  # noqa: TRY301  # below
        except Requeued:
            self._on_failure(ExceptionInfo())  # needs a traceback, so it must have been raised

    def _drive(self, value: Any, error: BaseException | None) -> None:
        """Let the greenlet run on; what it hands over, if anything, becomes an asyncio task."""
        assert self.greenlet is not None
        job_greenlet = self.greenlet
        parked = job_greenlet.switch((value, error)) if job_greenlet else job_greenlet.switch()
        if parked is not None:
            coro, context = parked
            self._awaiting = False
            self._task = asyncio.get_running_loop().create_task(
                self._await(coro), name=self.task_id, context=context
            )

    async def _await(self, coro: Coroutine[Any, Any, Any]) -> None:
        # Nothing may leave this function: an asyncio task ended by SystemExit ends the loop.
        value: Any = None
        error: BaseException | None = None
        self._awaiting = True
        if self.cause is not None:
            coro.close()
            error = asyncio.CancelledError()
        else:
            if self._throw_soft_limit:  # reached before the first step: now there is one
                self._cancel_task()
            try:
                value = await (_interruptible(self, coro) if self._soft_limit_s else coro)
            except BaseException as raised:  # noqa: BLE001  # raised again, in the greenlet
                error = _without_bridge(raised)
        self._drive(value, error)
        del error  # or this frame and the traceback keep each other alive

    def _after_cancel(self, error: BaseException | None) -> BaseException | None:
        """What the tracer sees of a coroutine that was cancelled: nothing it would report.

        At a shutdown a task may still finish, or ask to be retried. In all other cases
        Celery has announced the outcome before the coroutine could clean up.
        """
        finished = error is None or isinstance(error, TaskPredicate)
        if finished and self.cause is CancelCause.SHUTDOWN:
            return error
        if isinstance(error, Exception) and not finished:
            logger.error("Task %s failed while cleaning up", self.task_id, exc_info=error)
        return asyncio.CancelledError(str(self.cause))

    def _cancel_task(self) -> None:
        # A task cancelled before its first step never enters _await: it looks at `cause` there.
        if self._task is not None and self._awaiting:
            self._task.cancel()

    def _soft_limit(self) -> None:
        if self.cause is None and self._soft_limit_s:
            self.soft_limit_hit = self._throw_soft_limit = True
            self._on_limit(True, self._soft_limit_s)
            self._cancel_task()

    def _hard_limit(self) -> None:
        if self.cause is None and self._hard_limit_s:
            self.cause = CancelCause.TIME_LIMIT
            self._on_limit(False, self._hard_limit_s)
            self._cancel_task()

    def take_soft_limit(self) -> _SoftLimit | None:
        """The exception to raise in place of a cancellation, if the soft limit asked for it."""
        if not self._throw_soft_limit or self.cause is not None or self._task is None:
            return None
        self._throw_soft_limit = False
        self._task.uncancel()
        return _SoftLimit(self._soft_limit_s)


@coroutine
def _interruptible(job: Job, coro: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Drive ``coro`` as ``await`` does, with the soft limit raised where it is cancelled."""
    step: Callable[[Any], Any] = coro.send
    sent: Any = None
    while True:
        try:
            awaited = step(sent)
        except StopIteration as end:
            return end.value
        except _SoftLimit as limit:
            raise SoftTimeLimitExceeded(*limit.args).with_traceback(limit.__traceback__) from None
        try:
            sent = yield awaited
            step = coro.send
        except asyncio.CancelledError as cancelled:
            step, sent = coro.throw, job.take_soft_limit() or cancelled
        except GeneratorExit:
            coro.close()
            raise
        except BaseException as raised:  # noqa: BLE001  # belongs to the coroutine
            step, sent = coro.throw, raised


def _drop_frames(retval: Any) -> None:
    """Drop the frames of the exception that Celery's tracer returns for a task that has failed.

    Celery keeps the traceback as text. The frames lead to the greenlet of the task, which holds
    ``retval``: without this, 100 KB of each failed task would wait for the garbage collector.
    """
    match retval:
        case (_, ExceptionInfo(exception=error), *_):
            error = getattr(error, "exc", error)
            while error is not None and error.__traceback__ is not None:
                error.__traceback__ = None
                error = error.__cause__ or error.__context__


def _without_bridge(error: BaseException) -> BaseException:
    """``error`` with a traceback that begins in the user's code."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return error.with_traceback(trace)
