"""The task class with ``async def`` bodies, and a request that can go back to its queue."""

import asyncio
import functools
import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar

from billiard.einfo import ExceptionWithTraceback
from celery import Task, current_task
from celery.utils.functional import maybe_list
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.request import Request
from celery.worker.state import task_ready
from greenlet import getcurrent
from kombu.transport import virtual

from berlin_worker.pool.context import CancelCause, JobGreenlet, Requeued, stack_owner

logger = get_logger(__name__)


class AsyncioRequest(Request):  # type: ignore[misc]  # celery has no type information
    """Celery's request, whose message the pool can return to the broker."""

    acknowledged: bool
    _dead: ClassVar[Any] = None
    """The channel to the broker that failed last, for all requests: none uses it again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Celery has decoded the body already. Without a content type the tracer uses it as it is:
        # it does not decode again, and no second copy stays in memory.
        self._body, self._content_type = self._payload, None

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Cancel the task for a shutdown or a lost connection, unless it has ended."""
        # Celery wants the retry signal of an acks_late task on connection loss only.
        lost = emit_retry and self.task.acks_late
        cause = CancelCause.CONNECTION_LOST if lost else CancelCause.SHUTDOWN
        cancel_job = getattr(pool, "cancel_job", None)  # other pools have none
        if cancel_job is None or cancel_job(self.worker_pid, cause):
            super().cancel(pool, signal, emit_retry=emit_retry)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> None:
        """Report a failure; for :class:`Requeued` put the message back on the queue instead."""
        error = error_of(exc_info)
        if isinstance(error, Requeued):
            self.requeue_job()
        else:
            if isinstance(error, MemoryError):
                # Celery would end the process and keep the message. The tracer has stored the
                # failure already: this is for the acknowledgement and the event.
                exc_info.exception = RuntimeError(repr(error))
            super().on_failure(exc_info, *args, **kwargs)

    def requeue_job(self) -> None:
        """End this run of the task, and :meth:`release` its message: the task runs again."""
        task_ready(self)
        self.release()

    def release(self) -> None:
        """Return the message to the head of its queue, unless it is acknowledged already."""
        if self.acknowledged:
            return
        self.acknowledged = True
        if self.message.channel is AsyncioRequest._dead is not None:
            return
        try:
            _return_to_queue(self.message)
        except self.connection_errors as error:
            AsyncioRequest._dead = self.message.channel
            logger.warning("The broker is away, and delivers the tasks again later: %r", error)
        else:
            self.send_event("task-rejected", requeue=True)


def discard_of(request: Request) -> Callable[[], None] | None:
    """Return a function that reports the end of a task that must not start any more, or ``None``.

    Another task may block the event loop between the acceptance of this one and its start. In the
    meantime it may be revoked, or expire. Called in the loop's thread; the function is to be
    called in the main thread. ``request`` may be of any class, since a task may be.
    """
    expires = request.expires
    expired = expires is not None and datetime.now(expires.tzinfo) > expires
    if expired or request.id in state.revoked or _stamp_is_revoked(request):
        return functools.partial(_announce_discarded, request)
    return None


def _stamp_is_revoked(request: Request) -> bool:
    if not state.revoked_stamps:
        return False
    return any(
        value in maybe_list(state.revoked_stamps.get(stamp, ()))
        for stamp in request.stamped_headers
        for value in maybe_list(request.stamps.get(stamp)) or ()
    )


def _announce_discarded(request: Request) -> None:
    if not request.revoked():  # Celery has dropped the revocation in the meantime
        requeue_job(request)


def requeue_job(request: Request) -> None:
    """End this run of a task, and return its message to the queue: the task runs again."""
    if isinstance(request, AsyncioRequest):
        request.requeue_job()
    else:
        request.reject(requeue=True)


def error_of(exc_info: Any) -> Any:
    """Return the exception in the report to a request; :class:`Requeued` is no failure."""
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _return_to_queue(message: Any) -> None:
    """Return ``message`` to the broker; it is the next one to be delivered.

    kombu's Redis transport would put a rejected message behind all others: it calls
    ``restore_by_tag(leftmost=True)``, and BRPOP takes from the right.
    """
    qos: Any = getattr(message.channel, "qos", None)
    if hasattr(qos, "restore_by_tag"):
        qos.restore_by_tag(message.delivery_tag)
        # Not qos.ack(): the next consumer holds the message under this tag, and would lose it.
        virtual.QoS.ack(qos, message.delivery_tag)  # type: ignore[no-untyped-call]
    else:
        message.reject(requeue=True)


class AsyncioTask(Task):  # type: ignore[misc]  # celery has no type information
    """A task whose body may be ``async def``: ``Celery(task_cls=AsyncioTask)``."""

    abstract = True
    Request = AsyncioRequest

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Here, not in __call__: Celery wraps `run` for autoretry_for once the class exists.
        super().__init_subclass__(**kwargs)
        run = cls.__dict__.get("run")
        if isinstance(run, staticmethod):
            cls.run = staticmethod(_awaited(run.__func__))
        elif run is not None:
            cls.run = _awaited(run)

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Let the coroutine of a task see ``self.request``."""
        super().on_bound(app)
        cls.request_stack.__ident_func__ = stack_owner


def _awaited(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def awaited_run(*args: Any, **kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        if not inspect.iscoroutine(result):
            return result
        current = getcurrent()
        if isinstance(current, JobGreenlet):
            return current.job.result_of(result)
        if _in_loop() or not current_task or current_task.request.called_directly:
            return result  # a direct call: the caller awaits it
        return asyncio.run(result)  # eager, or in another pool

    return awaited_run


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
