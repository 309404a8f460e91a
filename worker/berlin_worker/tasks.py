"""The task: pass what Celery received to the runner, and the outcome back to Celery."""

from datetime import timedelta
from typing import Any, Final

from celery.exceptions import Ignore, SoftTimeLimitExceeded
from celery.signals import task_revoked
from celery.worker.request import Context
from celery.worker.state import task_ready

from berlin_schemas import ErrorCode, names
from berlin_worker.broker import revocation, running
from berlin_worker.broker.scheduled import check_memory
from berlin_worker.broker.state import STATE
from berlin_worker.broker.validation import validate
from berlin_worker.broker.visibility import redelivered_at_once
from berlin_worker.celery import app
from berlin_worker.errors import JobError, TaskFailed
from berlin_worker.jobs.failures import time_limit_passed
from berlin_worker.jobs.runner import Outcome
from berlin_worker.pool import AsyncioRequest, AsyncioTask, Requeued, cancel_cause, error_of

_SAME_TIME_S: Final = 0.5
"""A smaller difference of two clocks counts as none: the round trip to Redis takes time, too."""
_METHODS: Final = frozenset(name for name in dir(Context) if callable(getattr(Context, name)))
"""Names of methods of Celery's request context, which a header could replace."""


class TaskDropped(Ignore):  # type: ignore[misc]  # celery has no type information
    """This delivery has ended no job: Celery acknowledges it, and reports nothing."""


class TaskCancelled(Ignore):  # type: ignore[misc]  # celery has no type information
    """The job has ended as ``cancelled``, which Celery reports as REVOKED."""


class PromptRequest(AsyncioRequest):
    """A request that can run; raises ``broker.validation.InvalidMessage`` for any other.

    Raises ``broker.scheduled.Postponed`` for one that has to wait without its body.

    Its arguments hold a prompt, and stay out of logs, events and ``inspect``. The client hides them
    itself (``argsrepr``), other producers do not.
    """

    _eta: Any
    _expires: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if abs(STATE.clock_ahead_s) > _SAME_TIME_S:
            # Redis's clock decides when a job starts or expires, not that of a worker.
            ahead = timedelta(seconds=STATE.clock_ahead_s)
            self._eta = self._eta and self._eta + ahead
            self._expires = self._expires and self._expires + ahead
        validate(self._request_dict, self._body, self._eta)
        if self._eta is not None:
            check_memory(self.message, self._eta)
        # Celery copies the rest of the body, and every header, into the request context, where one
        # could replace the ID or a method.
        self._body = (*self._body[:2], None)
        if not _METHODS.isdisjoint(self._request_dict):
            for name in _METHODS & self._request_dict.keys():
                del self._request_dict[name]
        if self._request_dict.get("shadow"):  # a name for the log; deleting costs 0.7 KB a stream
            self.name, self._request_dict["shadow"] = self._type, None
        self._argsrepr = self._kwargsrepr = "<hidden>"
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002  # always safe
        """Return what ``inspect`` shows of the request."""
        shown: dict[str, Any] = super().info(safe=True)
        return shown

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Handle a passed time limit; a job that is not claimed yet ends as ``failed``, too."""
        super().on_timeout(soft, timeout)
        running.refuse(self.id, time_limit_passed())

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> None:
        """Report a failure to Celery; REVOKED for a cancelled job.

        An error that did not come from the job itself ends it as ``failed``, claimed or not.
        """
        error = error_of(exc_info)
        if isinstance(error, TaskCancelled):
            self._end_revoked()
            return
        super().on_failure(exc_info, *args, **kwargs)
        # on_timeout handles SoftTimeLimitExceeded.
        if not isinstance(error, Requeued | SoftTimeLimitExceeded | TaskFailed | TaskDropped):
            detail = "the worker could not run the task"
            running.refuse(self.id, JobError(ErrorCode.INTERNAL, detail))

    _already_revoked: bool

    def _end_revoked(self) -> None:
        # Not Celery's _announce_revoked: its signal would cancel a job that has ended.
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
    """Raise the exception by which Celery's task state follows a job that has not completed."""
    match outcome.status:
        case "completed":
            return
        case "cancelled":
            raise TaskCancelled
        case "failed" if cancel_cause() is None:
            raise TaskFailed(outcome.code)
        case _:  # Celery has cancelled the task, and reports that itself
            raise TaskDropped


# Failures of jobs are expected: one line of the log, no traceback.
@app.task(name=names.TASK, bind=True, base=PromptTask, throws=(TaskFailed,))  # type: ignore[untyped-decorator]  # celery has no types
async def generate(self: PromptTask, *args: Any, **kwargs: Any) -> None:
    """Run one prompt job (schemas/README.md, "Names"): one positional argument, the job object."""
    # Read once: each access looks up which task runs.
    request, tracer = self.request, running.tracer()
    job_id = request.id
    received = {name: request.get(name) for name in tracer.fields}
    # A header of a message may have any type.
    headers = {name: value for name, value in received.items() if isinstance(value, str)}
    redelivered = redelivered_at_once(request.delivery_info, app.conf)
    with tracer.delivery(job_id, headers):
        outcome = await running.dispatcher().run(job_id, args, kwargs, redelivered=redelivered)
    report(outcome)


@task_revoked.connect(sender=generate, weak=False)  # type: ignore[untyped-decorator]  # celery has no types
def revoked(request: Context, *, expired: bool, **_: Any) -> None:
    """End a job that Celery drops before it starts: as ``cancelled``."""
    running.cancel(request.id, "expired" if expired else "revoked")


revocation.install(running.revoke)
