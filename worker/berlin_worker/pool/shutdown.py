"""The shutdown of the pool: drain, cancel, return messages, end the loop (in the main thread)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery.utils.log import get_logger
from celery.worker import state

from berlin_worker.pool.callback_queue import CallbackQueue
from berlin_worker.pool.job import Job
from berlin_worker.pool.task import requeue_job
from berlin_worker.pool.thread import LoopThread

logger = get_logger(__name__)

CLEANUP_TIMEOUT_S = 10.0
"""The default of ``worker_pool_cleanup_timeout``."""


class Shutdown:
    """Ends a pool, once. ``running`` are its tasks in flight, by number."""

    def __init__(
        self, callbacks: CallbackQueue, thread: LoopThread, running: Mapping[int, Job]
    ) -> None:
        self._callbacks = callbacks
        self._thread = thread
        self._running = running
        self._unstarted: list[Any] = []
        self._finishing = False
        self._signals = 0

    def note_unstarted(self) -> None:
        """Note the requests that were received but not started."""
        requests = tuple(state.requests.values())
        self._unstarted = [each for each in requests if each not in state.active_requests]

    def on_signal(self, sig: str, how: str, **_: Any) -> None:
        """Count a signal: each SIGINT or SIGQUIT after the first signal cuts one wait short."""
        # Supervisors may send SIGTERM twice, for instance to a process and to its group. Like
        # Celery's pools, this one does not hurry for it. A second SIGINT or SIGQUIT asks to stop
        # without waiting.
        if not self._signals or sig == "SIGINT" or how == "Cold":
            self._signals += 1
        self._callbacks.wake()

    def finish(self, pool: Any, drain_timeout_s: float | None) -> None:
        """Drain for ``drain_timeout_s`` (``None``: no limit), requeue the rest, end the loop."""
        if self._finishing:
            return
        self._finishing = True
        self._signals = max(self._signals, 1)  # remote control stops without a signal
        cleanup_timeout_s = pool.app.conf.get("worker_pool_cleanup_timeout", CLEANUP_TIMEOUT_S)
        self._requeue_unstarted(pool)
        self._callbacks.run_until(self._ended, drain_timeout_s, self._hurry(0))
        if self._running:
            logger.warning("Cancelling %d tasks to stop the worker", len(self._running))
            for request in tuple(state.active_requests):
                request.cancel(pool, emit_retry=not request.task.acks_late)
            self._callbacks.run_until(self._ended, cleanup_timeout_s, self._hurry(1))
        if self._running:
            left = _enumerate(job.task_id for job in self._running.values())
            logger.error("Leaving while these tasks still clean up: %s", left)
        self._thread.close()
        self._callbacks.run_until(lambda: self._thread.exited, cleanup_timeout_s, self._hurry(1))
        if not self._thread.exited:
            logger.error("Leaving while the lifespan or a task still holds the event loop")

    def _ended(self) -> bool:
        return not self._running or (self._thread.exited and self._callbacks.empty)

    def _hurry(self, phase: int) -> Callable[[], bool]:
        return lambda: self._signals > 1 + phase

    def _requeue_unstarted(self, pool: Any) -> None:
        pool.flush()
        # The last to return is the first to be delivered, so the oldest comes last.
        for request in reversed(self._unstarted):
            requeue_job(request)
        self._unstarted = []


def _enumerate(names: Iterable[str], most: int = 10) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
