"""The dispatcher and the tracer of this process, for callers in any thread."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from berlin_schemas import names
from berlin_worker.errors import JobError
from berlin_worker.telemetry import tracing

if TYPE_CHECKING:  # importing the Celery app must not load the worker
    from berlin_worker.jobs.dispatcher import Dispatcher

_TIMEOUT_S: Final = 5.0

_running: "tuple[Dispatcher, asyncio.AbstractEventLoop] | None" = None
_tracer: tracing.Tracer = tracing.OFF


@contextlib.contextmanager
def serving(dispatcher: "Dispatcher", tracer: tracing.Tracer) -> Iterator[None]:
    """Register both arguments for this process while the block runs; enter it in the event loop."""
    global _running, _tracer  # a process has one worker, one loop, one dispatcher
    _running, _tracer = (dispatcher, asyncio.get_running_loop()), tracer
    try:
        yield
    finally:
        _running, _tracer = None, tracing.OFF


def dispatcher() -> "Dispatcher":
    """Return the dispatcher of jobs; raises ``RuntimeError`` if no worker runs in this process."""
    if _running is None:
        raise RuntimeError("no worker runs in this process: start one with `berlin worker`")
    return _running[0]


def tracer() -> tracing.Tracer:
    """Return the tracer; it does nothing if no worker runs in this process."""
    return _tracer


def cancel(job_id: str, reason: str) -> None:
    """End a job as ``cancelled``, also if it is unknown; returns at once."""
    if _running is not None and names.is_job_id(job_id):
        current, loop = _running
        asyncio.run_coroutine_threadsafe(current.cancel(job_id, reason, only_queued=False), loop)


def discard(job_id: object, reason: str, detail: str, message: bytes) -> None:
    """Write a message that is no delivery of a job to the dead letters, and wait for the reply.

    Raises ``TimeoutError`` if Redis does not answer within 5 s.
    """
    assert _running is not None, "the consumer calls this, and the pool outlives the consumer"
    current, loop = _running
    work = current.discard(job_id, reason, detail, message)
    asyncio.run_coroutine_threadsafe(work, loop).result(_TIMEOUT_S)


def refuse(job_id: str, refusal: JobError) -> None:
    """End a job as ``failed`` unless an attempt is running; returns at once."""
    if _running is not None:
        current, loop = _running
        asyncio.run_coroutine_threadsafe(current.refuse(job_id, refusal), loop)


def revoke(job_ids: list[str], running: bool) -> None:
    """Record that these jobs are revoked; with ``running`` also end those that run."""
    if _running is not None and job_ids:
        current, loop = _running
        asyncio.run_coroutine_threadsafe(current.revoke(job_ids, running=running), loop)


def silent_s() -> float:
    """Return how long (s) the event store has not answered."""
    return 0.0 if _running is None else _running[0].silent_s
