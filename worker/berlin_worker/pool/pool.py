"""The pool, as Celery uses it. A comment marks each function of the loop's thread."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import count
from time import monotonic
from typing import Any

from billiard.common import REMAP_SIGTERM
from celery import platforms, signals
from celery._state import _task_stack
from celery.concurrency.base import BasePool
from celery.exceptions import ImproperlyConfigured, WorkerShutdown
from celery.platforms import EX_FAILURE, EX_OK
from celery.utils.imports import symbol_by_name
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.request import Request

from berlin_worker.pool.callback_queue import CallbackQueue
from berlin_worker.pool.context import CancelCause, stack_owner
from berlin_worker.pool.job import Job
from berlin_worker.pool.restart import RESTART
from berlin_worker.pool.shutdown import Shutdown
from berlin_worker.pool.task import discard_of
from berlin_worker.pool.thread import LifespanError, LoopThread

logger = get_logger(__name__)


class AsyncioPool(BasePool):  # type: ignore[misc]  # celery has no type information
    """Runs tasks in one event loop; ``limit`` is how many are in flight at most.

    A task above the limit waits here, in order, and is not accepted yet.
    """

    body_can_be_buffer = True
    signal_safe = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._numbers = count(1)
        self._waiting: deque[_Entry] = deque()
        self._running: dict[int, Job] = {}
        self._lock = threading.RLock()  # guards both; several threads take it without a hub only
        self._inbox: deque[Job] = deque()
        self._inbox_announced = False
        self._callbacks = CallbackQueue(has_hub=not self.options.get("threads", True))
        self._thread = LoopThread(
            self._lifespan, on_crash=self._on_crash, on_exit=self._callbacks.wake
        )
        self._shutdown = Shutdown(self._callbacks, self._thread, self._running)

    # Starting.

    def on_start(self) -> None:
        """Start the loop and enter the lifespan; a failure ends the worker with one line."""
        # Celery would log the arguments of each task at level DEBUG: they may hold a secret.
        self._does_debug = False
        if not hasattr(_task_stack, "__ident_func__"):
            raise ImproperlyConfigured("AsyncioPool does not work with USE_FAST_LOCALS")
        _task_stack.__ident_func__ = stack_owner
        signals.worker_shutting_down.connect(self._shutdown.on_signal)
        if not self.app.IS_macOS:  # Celery refuses SIGHUP there: a process with threads cannot exec
            RESTART.install()
        try:
            self._thread.start(poll=state.maybe_shutdown)
        except LifespanError as error:
            logger.critical("The worker cannot start: %s", error)
            logger.debug("The lifespan failed", exc_info=error.__cause__)
            raise WorkerShutdown(EX_FAILURE) from None
        if (
            REMAP_SIGTERM == "SIGQUIT"
            and self.app.conf.get("worker_pool_drain_timeout") is not None
        ):
            # The user wants a bounded shutdown that loses nothing: our warm one. Celery's cold
            # one would cancel tasks that could still end, or sleep in a signal handler.
            platforms.signals["SIGTERM"] = self._stop_warm

    def register_with_event_loop(self, loop: Any) -> None:
        """Let ``loop`` run the callbacks; Celery calls this for each connection to the broker."""
        self._callbacks.attach(loop)

    @contextlib.asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        # In the loop's thread: with several apps in a process another app would be current there.
        self.app.set_current()
        configured = self.app.conf.get("worker_pool_lifespan")
        if configured is None:
            yield
            return
        enter: Callable[[Any], AbstractAsyncContextManager[Any]] = symbol_by_name(configured)
        async with enter(self.app):
            yield

    # Running tasks.

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        *,
        callback: Any = None,
        accept_callback: Any = None,
        error_callback: Any = None,
        timeout_callback: Any = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
        **_: Any,
    ) -> "_Entry":
        """Start the task, or let it wait for a slot."""
        number = next(self._numbers)
        # Celery's callbacks are methods of the request.
        caller = getattr(accept_callback, "__self__", None)
        request = caller if isinstance(caller, Request) else None
        job = Job(
            number,
            correlation_id or str(number),
            partial(target, *(args or ()), **(kwargs or {})),
            on_success=callback or _ignore,
            on_failure=error_callback or _ignore,
            on_end=self._post_end,
            on_limit=partial(self._post_limit, timeout_callback),
            discard=request and partial(discard_of, request),
            soft_limit_s=soft_timeout or self.options.get("soft_timeout"),
            hard_limit_s=timeout or self.options.get("timeout"),
        )
        entry = _Entry(job, request, accept_callback, self._terminate_waiting)
        with self._lock:
            self._waiting.append(entry)
            self._fill()
        return entry

    def _fill(self) -> None:
        with self._lock:
            while self._waiting and len(self._running) < self.limit:
                self._admit(self._waiting.popleft())

    def _admit(self, entry: "_Entry") -> None:
        job = entry.job
        if entry.request is not None and entry.request.revoked():
            return
        # Before it is accepted: Celery may terminate it right then.
        self._running[job.number] = job
        try:
            if entry.accept:
                entry.accept(job.number, monotonic())
        except BaseException:
            del self._running[job.number]
            raise
        self._inbox.append(job)
        if not self._inbox_announced:
            self._inbox_announced = True
            self._thread.call_soon(self._start_jobs)

    def _start_jobs(self) -> None:  # in the loop's thread
        self._inbox_announced = False
        while self._inbox:
            self._inbox.popleft().start(self._thread.loop)

    def _post_end(self, job: Job, report: Callable[[], None] | None) -> None:  # loop's thread
        self._callbacks.post(partial(self._on_end, job, report))

    def _post_limit(self, callback: Any, soft: bool, limit_s: float) -> None:  # loop's thread
        if callback:
            self._callbacks.post(partial(callback, soft, limit_s))

    def _on_end(self, job: Job, report: Callable[[], None] | None) -> None:
        try:
            if report:
                report()
        finally:
            with self._lock:
                self._running.pop(job.number, None)
                self._fill()

    # Cancelling.

    def cancel_job(self, number: int, cause: CancelCause) -> bool:
        """Cancel a task; returns false if it does not run, or is being cancelled already."""
        job = self._running.get(number)
        return job is not None and job.cancel(cause, self._thread.call_soon)

    def terminate_job(self, pid: int, _signal: Any = None) -> None:
        """Cancel a task for ``revoke --terminate``; ``pid`` is the number it was accepted with."""
        self.cancel_job(pid, CancelCause.REVOKED)

    def _terminate_waiting(self, entry: "_Entry") -> None:
        # Celery reports a revoked task when it is accepted. So it is accepted, and never starts.
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(entry)
            self._admit(entry)

    def flush(self) -> None:
        """Drop the waiting tasks: the connection is lost, and the broker delivers them again."""
        with self._lock:
            self._waiting.clear()

    @property
    def silent_s(self) -> float:
        """Seconds since the oldest unanswered probe of the event loop; reading it sends a probe."""
        return self._thread.silent_s

    # Size.

    def grow(self, n: int = 1) -> None:
        """Allow ``n`` more tasks in flight; raises ``ValueError`` unless ``n`` is 0 or more."""
        self.limit += _natural(n)
        self._fill()

    def shrink(self, n: int = 1) -> None:
        """Allow ``n`` fewer; those that run go on.

        Raises ``ValueError`` unless ``n`` is 0 or more, and that many slots exist.
        """
        if _natural(n) > self.limit:
            raise ValueError(f"cannot take {n} from {self.limit} slots")
        self.limit -= n

    def _get_info(self) -> dict[str, Any]:
        """Return the fields of ``inspect stats``: those of Celery's pools, and three more."""
        limits = (self.options.get(name) or 0 for name in ("soft_timeout", "timeout"))
        return {
            **super()._get_info(),
            "processes": [os.getpid()],
            "max-tasks-per-child": "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": tuple(limits),
            "in-flight": len(self._running),
            "waiting": len(self._waiting),
            "event-loop": self._thread.implementation,
        }

    # Stopping.

    def on_close(self) -> None:
        """Note the requests that were received but not started, before the consumer drops them."""
        self._shutdown.note_unstarted()

    def on_stop(self) -> None:
        """Shut down warmly.

        A cold shutdown calls this in a signal handler, and ``on_terminate`` later.
        """
        if self._state == self.CLOSE:
            self._shutdown.finish(self, self.app.conf.get("worker_pool_drain_timeout"))

    def on_terminate(self) -> None:
        """Shut down coldly, after the soft shutdown if there was one."""
        self._shutdown.finish(self, 0)

    def _stop_warm(self, *_: Any) -> None:  # a signal handler, as Celery's
        signals.worker_shutting_down.send(sender=self, sig="SIGTERM", how="Warm", exitcode=EX_OK)
        state.should_stop = EX_OK

    def _on_crash(self, error: BaseException) -> None:  # in the loop's thread
        logger.critical("The event loop of the pool has ended: %r", error, exc_info=error)
        for job in tuple(self._running.values()):
            job.cancel(CancelCause.SHUTDOWN, self._thread.call_soon)
        # Celery's loop looks at this flag: it is how its signal handlers stop the worker.
        state.should_stop = EX_FAILURE
        self._callbacks.wake()


class _Entry:
    """A task that was given to the pool; Celery keeps a weak reference to it."""

    __slots__ = ("__weakref__", "_terminate", "accept", "job", "request")

    def __init__(
        self, job: Job, request: Any, accept: Any, terminate: Callable[["_Entry"], None]
    ) -> None:
        self.job = job
        self.request = request
        self.accept = accept
        self._terminate = terminate

    def terminate(self, _signal: Any = None) -> None:
        """End the task if it still waits; Celery calls ``terminate_job`` for one that runs."""
        self._terminate(self)


def _natural(n: object) -> int:
    if not isinstance(n, int) or n < 0:  # remote control passes on any value
        raise ValueError(f"a number of slots is 0 or more, not {n!r:.50}")
    return n


def _ignore(*_: Any) -> None:
    pass
