"""Drive a coroutine under a soft time limit, and shorten its tracebacks (no state)."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType, coroutine
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.exceptions import SoftTimeLimitExceeded


class SoftLimit(SoftTimeLimitExceeded, asyncio.CancelledError):  # type: ignore[misc]  # celery has no type information
    """The soft limit as a coroutine sees it.

    It is a ``CancelledError``, too: ``TaskGroup`` stops its children on that error alone.
    """


@coroutine
def interruptible(
    coro: Coroutine[Any, Any, Any], take_soft_limit: Callable[[], SoftLimit | None]
) -> Generator[Any, Any, Any]:
    """Drive ``coro`` as ``await`` does; a cancellation by the soft limit raises that limit."""
    step: Callable[[Any], Any] = coro.send
    sent: Any = None
    while True:
        try:
            awaited = step(sent)
        except StopIteration as end:
            return end.value
        except SoftLimit as limit:
            raise SoftTimeLimitExceeded(*limit.args).with_traceback(limit.__traceback__) from None
        try:
            sent = yield awaited
            step = coro.send
        except asyncio.CancelledError as cancelled:
            step, sent = coro.throw, take_soft_limit() or cancelled
        except GeneratorExit:
            coro.close()
            raise
        except BaseException as raised:  # noqa: BLE001  # the coroutine is to handle it
            step, sent = coro.throw, raised


def drop_frames(retval: Any) -> None:
    """Drop the frames of the exception that Celery's tracer returns for a failed task.

    Celery keeps the traceback as text. The frames refer to the greenlet of the task, which refers
    to ``retval``: such a cycle would leave 100 KB of each failed task to the garbage collector.
    """
    match retval:
        case (_, ExceptionInfo(exception=error), *_):
            error = getattr(error, "exc", error)
            while error is not None and error.__traceback__ is not None:
                error.__traceback__ = None
                error = error.__cause__ or error.__context__


def without_bridge(error: BaseException, bridge: str) -> BaseException:
    """Return ``error`` with its traceback, without the first frames of this file and ``bridge``."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, bridge):
        trace = trace.tb_next
    return error.with_traceback(trace)
