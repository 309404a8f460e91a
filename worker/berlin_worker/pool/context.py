"""Which task the calling code belongs to, and why that task is being cancelled."""

import contextvars
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any, Protocol

from celery.exceptions import Reject
from greenlet import getcurrent, greenlet


class CancelCause(StrEnum):
    """Why a task is being cancelled."""

    REVOKED = "revoked"
    """By ``revoke --terminate``: it does not run again."""
    SHUTDOWN = "shutdown"
    """The worker stops: another worker runs the task again if it is ``acks_late``."""
    TIME_LIMIT = "time_limit"
    """The task ran longer than its hard time limit, or (for its child tasks) its soft one."""
    CONNECTION_LOST = "connection_lost"
    """The broker is lost, and delivers the message to another worker."""


class Requeued(Reject):  # type: ignore[misc]  # celery has no type information
    """A shutdown has stopped the task; its message returns to the queue."""


class RunningJob(Protocol):
    """The job of a task, as code in that task uses it."""

    cause: CancelCause | None
    soft_limit_hit: bool
    greenlet: "JobGreenlet | None"

    def result_of(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Await ``coro`` from within the job's greenlet; returns its result."""


class JobGreenlet(greenlet):  # type: ignore[misc]  # greenlet has no type information
    job: "RunningJob"


JOB_OF_CONTEXT: contextvars.ContextVar["RunningJob"] = contextvars.ContextVar("celery_job")


def current_job() -> "RunningJob | None":
    """Return the job of the calling coroutine, child task or task body."""
    if (job := JOB_OF_CONTEXT.get(None)) is not None:
        return job
    return getattr(getcurrent(), "job", None)


def stack_owner() -> greenlet | None:
    """Return the key of Celery's stacks: a coroutine uses those of the greenlet that awaits it."""
    job = JOB_OF_CONTEXT.get(None)
    return getcurrent() if job is None else job.greenlet


def cancel_cause() -> CancelCause | None:
    """Return why the calling task is being cancelled; ``None`` if it is not, or outside of a task.

    Works in the coroutine of a task and in the asyncio tasks that it started.
    """
    job = current_job()
    if job is None:
        return None
    return CancelCause.TIME_LIMIT if job.soft_limit_hit and job.cause is None else job.cause
