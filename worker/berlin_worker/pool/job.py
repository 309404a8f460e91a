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
from collections.abc import Callable, Coroutine
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.exceptions import TaskPredicate, WorkerLostError
from celery.utils.saferepr import saferepr

from berlin_worker.pool.context import JOB_OF_CONTEXT, CancelCause, JobGreenlet, Requeued
from berlin_worker.pool.coroutines import SoftLimit, drop_frames, interruptible, without_bridge

logger = logging.getLogger(__name__)


class Job:
    """One task in the pool, and how it runs. Each callback is called in the loop's thread.

    - ``on_end``: once, with the job and a function that reports the end to Celery, or ``None``
      if Celery has reported it already.
    - ``on_limit``: with ``(soft, seconds)`` when a limit has passed.
    - ``discard``: before the tracer. If it returns a function, that one reports the end, and the
      tracer does not run.
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
        """Cancel the coroutine, through the loop's thread-safe ``call_soon``.

        Returns ``False``, and does nothing, if it has ended or is being cancelled already.
        """
        if self.ended or self.cause is not None:
            return False
        self.cause = cause
        call_soon(self._cancel_task)
        return True

    # In the loop's thread.

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the tracer until the body of the task awaits something."""
        if self.cause is not None:  # cancelled before its start: the tracer does not run
            self._end(self._requeue if self.cause is CancelCause.SHUTDOWN else None)
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
        except TypeError as error:  # limits come with the message, from any producer
            self._end(self._failure(error))
            return
        self.greenlet = JobGreenlet(self._run)
        self.greenlet.job = self
        self._drive(None, None)

    def result_of(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Await ``coro`` from within the job's greenlet; returns its result or raises its error."""
        context = contextvars.copy_context()
        context.run(JOB_OF_CONTEXT.set, self)
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
                report = self._requeue
        except BaseException as error:  # noqa: BLE001  # SystemExit ends the task alone
            report = self._failure(error)
        else:
            drop_frames(retval)

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
        # Celery would end the process for anything but an Exception; here this task alone ends.
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            lost = WorkerLostError(f"The task was ended by {saferepr(error)}")
            error = lost.with_traceback(error.__traceback__)
        info = ExceptionInfo((type(error), error, error.__traceback__))
        return lambda: self._on_failure(info)

    def _requeue(self) -> None:
        try:
            raise Requeued("the worker is shutting down", requeue=True)  # noqa: TRY301  # caught here
        except Requeued:
            self._on_failure(ExceptionInfo())  # needs a traceback, so it must have been raised

    def _drive(self, value: Any, error: BaseException | None) -> None:
        """Resume the greenlet; a coroutine that it hands over becomes an asyncio task."""
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
        # No exception may leave this function: SystemExit of an asyncio task ends the loop.
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
                value = await (
                    interruptible(coro, self._take_soft_limit) if self._soft_limit_s else coro
                )
            except BaseException as raised:  # noqa: BLE001  # raised again, in the greenlet
                error = without_bridge(raised, __file__)
        self._drive(value, error)
        del error  # or this frame and the traceback keep each other alive

    def _after_cancel(self, error: BaseException | None) -> BaseException | None:
        """Return what a cancelled coroutine raises in the tracer, which does not report it.

        At a shutdown a task may still finish, or ask to be retried. In all other cases Celery
        has reported the end before the coroutine cleaned up.
        """
        finished = error is None or isinstance(error, TaskPredicate)
        if finished and self.cause is CancelCause.SHUTDOWN:
            return error
        if isinstance(error, Exception) and not finished:
            logger.error("Task %s failed while cleaning up", self.task_id, exc_info=error)
        return asyncio.CancelledError(str(self.cause))

    def _cancel_task(self) -> None:
        # A task cancelled before its first step never enters _await, so _await checks `cause`.
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

    def _take_soft_limit(self) -> SoftLimit | None:
        """Return the exception to raise instead of a cancellation that the soft limit caused."""
        if not self._throw_soft_limit or self.cause is not None or self._task is None:
            return None
        self._throw_soft_limit = False
        self._task.uncancel()
        return SoftLimit(self._soft_limit_s)
