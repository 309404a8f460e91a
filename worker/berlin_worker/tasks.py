"""The task: take what Celery knows of the delivery, and hand it to the runner."""

from datetime import timedelta
from typing import Any, Final

from celery.exceptions import Ignore, SoftTimeLimitExceeded
from celery.signals import task_revoked
from celery.worker.request import Context
from celery.worker.state import task_ready

from berlin_schemas import ErrorCode, names
from berlin_worker.broker import revocation, running
from berlin_worker.broker.qos import QoS
from berlin_worker.broker.validation import check
from berlin_worker.broker.visibility import redelivered_at_once
from berlin_worker.celery import app
from berlin_worker.errors import JobError, TaskFailed
from berlin_worker.jobs.failures import time_limit_passed
from berlin_worker.jobs.runner import Outcome
from berlin_worker.pool import AsyncioRequest, AsyncioTask, Requeued, cancel_cause, error_of

_SAME_TIME_S: Final = 0.5
"""Two clocks that are no further apart show the same time: to ask for it takes a while, too."""
_METHODS: Final = frozenset(name for name in dir(Context) if callable(getattr(Context, name)))
"""Of what Celery makes of the headers of a message."""


class TaskDropped(Ignore):  # type: ignore[misc]  # celery has no type information
    """This delivery has ended no job: Celery acknowledges it, and says nothing of the task."""


class TaskCancelled(Ignore):  # type: ignore[misc]  # the same
    """The job has ended as ``cancelled``: REVOKED for Celery."""


class PromptRequest(AsyncioRequest):
    """A request that can run; else it raises ``broker.validation.InvalidMessage``.

    Its arguments stay out of logs, events and ``inspect``: they are a prompt.

    A producer that knows of it hides them itself (``argsrepr``); a bare one does not.
    """

    _eta: Any
    _expires: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if abs(QoS.clock_ahead_s) > _SAME_TIME_S:
            # When a job begins, or is too late, is decided by Redis's clock, not by its holder's.
            ahead = timedelta(seconds=QoS.clock_ahead_s)
            self._eta = self._eta and self._eta + ahead
            self._expires = self._expires and self._expires + ahead
        check(self._request_dict, self._body, self._eta)
        # Celery takes all else there, and every header, for a part of the request: another ID,
        # or something in the place of a method.
        self._body = (*self._body[:2], None)
        if not _METHODS.isdisjoint(self._request_dict):
            for name in _METHODS & self._request_dict.keys():
                del self._request_dict[name]
        if self._request_dict.get("shadow"):  # a name for the log; deleting costs 0.7 KB a stream
            self.name, self._request_dict["shadow"] = self._type, None
        self._argsrepr = self._kwargsrepr = "<hidden>"
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002  # safe it is
        """What ``inspect`` tells of the request."""
        told: dict[str, Any] = super().info(safe=True)
        return told

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """As Celery's; a job that was not even claimed by then is told of its end, too."""
        super().on_timeout(soft, timeout)
        running.refuse(self.id, time_limit_passed())

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> None:
        """As Celery's, and REVOKED for a job that was cancelled.

        What else raises there is not the job, which may not even have been claimed.
        """
        error = error_of(exc_info)
        if isinstance(error, TaskCancelled):
            self._end_revoked()
            return
        super().on_failure(exc_info, *args, **kwargs)
        # For SoftTimeLimitExceeded see on_timeout.
        if not isinstance(error, Requeued | SoftTimeLimitExceeded | TaskFailed | TaskDropped):
            told = "the worker could not run the task"
            running.refuse(self.id, JobError(ErrorCode.INTERNAL, told))

    _already_revoked: bool

    def _end_revoked(self) -> None:
        # Not Celery's _announce_revoked: its signal asks for the end of a job that is over.
        task_ready(self)
        if not self._already_revoked:
            self._already_revoked = True
            self.send_event("task-revoked", terminated=True, signum=None, expired=False)
        self.acknowledge()


class PromptTask(AsyncioTask):
    """A task whose one argument is a prompt job."""

    abstract = True
    Request = PromptRequest


def report(outcome: Outcome) -> None:
    """Let Celery's state of the task follow the end of the job: raise unless it has completed."""
    match outcome.status:
        case "completed":
            return
        case "cancelled":
            raise TaskCancelled
        case "failed" if cancel_cause() is None:
            raise TaskFailed(outcome.code)
        case _:  # Celery reports a task itself if it cancels it
            raise TaskDropped


# Failures of jobs are expected: one line of the log, no traceback.
@app.task(name=names.TASK, bind=True, base=PromptTask, throws=(TaskFailed,))  # type: ignore[untyped-decorator]  # celery has no types
async def generate(self: PromptTask, *args: Any, **kwargs: Any) -> None:
    """Run one prompt job (contract, "Names"): one positional argument, the job object."""
    # Once: each look at it asks which task runs.
    request, tracer = self.request, running.tracer()
    job_id = request.id
    told = {name: request.get(name) for name in tracer.fields}
    # Anybody may put anything on the queue.
    headers = {name: value for name, value in told.items() if isinstance(value, str)}
    redelivered = redelivered_at_once(request.delivery_info, app.conf)
    with tracer.delivery(job_id, headers):
        outcome = await running.router().run(job_id, args, kwargs, redelivered=redelivered)
    report(outcome)


@task_revoked.connect(sender=generate, weak=False)  # type: ignore[untyped-decorator]  # the same
def revoked(request: Context, *, expired: bool, **_: Any) -> None:
    """A job that Celery drops before it has begun ends as ``cancelled`` all the same."""
    running.cancel(request.id, "expired" if expired else "revoked")


revocation.install(running.revoke)
