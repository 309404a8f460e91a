"""Every error that Berlin Worker raises on purpose.

    BerlinWorkerError
    ├── SettingsError        a setting is missing or cannot be used
    ├── JobError             a job cannot go on; carries a code of the contract
    ├── TaskFailed           Celery's view of a job that has failed; carries the code alone
    ├── Fenced               another attempt owns the job: stop at once, publish nothing
    └── ClientError          raised to users of berlin_worker.client
        ├── Unavailable      Redis or the broker does not answer
        ├── JobIdReused      the submitted ID belongs to another job
        ├── CursorExpired    the requested log is gone
        ├── UnsupportedVersion       an event of the job is of another version of the contract
        └── JobFailed        the job ended as ``failed`` or ``cancelled``

Foreign errors (aiohttp's, redis-py's) are mapped to these once, at the edge.
"""

from typing import Self

from berlin_schemas import Cancelled, ErrorCode, ErrorInfo, Failed


class BerlinWorkerError(Exception):
    """The root of the tree."""


class SettingsError(BerlinWorkerError):
    """A setting is missing or cannot be used; the message names it."""


class JobError(BerlinWorkerError, RuntimeError):
    """A job, or an attempt of it, cannot go on.

    ``retry_after_s``: seconds that the upstream asked to wait. The class is a
    ``RuntimeError`` because ``Berlin.create_async_generator`` promises one.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retryable: bool = False,
        upstream_status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.upstream_status = upstream_status
        self.retry_after_s = retry_after_s

    def info(self) -> ErrorInfo:
        """Return the ``error`` object of the ``failed`` event."""
        return ErrorInfo(
            code=self.code,
            message=self.message,
            retryable=self.retryable,
            upstream_status=self.upstream_status,
        )


class TaskFailed(BerlinWorkerError):
    """A job has ended as ``failed``: for Celery, its events and Flower.

    Its text is the error code alone: the message of an error may hold a part of an answer.
    """


class Fenced(BerlinWorkerError):
    """The store refuses this attempt's events: the job belongs to a newer one, or is over."""


class ClientError(BerlinWorkerError):
    """The root of the errors that ``berlin_worker.client`` raises."""


class Unavailable(ClientError):
    """Redis or the broker does not answer; the message names the address without secrets.

    ``job_id`` is the job that was requested or submitted, if there is one.
    """

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobIdReused(ClientError):
    """A job was submitted under the ID of a job with another payload; nothing was sent."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"job ID {job_id} belongs to a job with another payload: give each job an ID of its "
            "own (the same payload may be submitted again under its ID)"
        )
        self.job_id = job_id

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.job_id,)


class CursorExpired(ClientError):
    """The log of the job has expired, or it never existed: nothing can be replayed from it."""


class UnsupportedVersion(ClientError):
    """The job has an event of another version of the contract, so its state cannot be read."""


class JobFailed(ClientError):
    """The job ended without a result; ``event`` is its terminal event."""

    def __init__(self, event: Failed | Cancelled) -> None:
        message = event.error.message if isinstance(event, Failed) else event.reason
        code = event.error.code.value if isinstance(event, Failed) else "cancelled"
        super().__init__(f"{code}: {message}")
        self.event = event

    def __reduce__(self) -> tuple[type[Self], tuple[Failed | Cancelled]]:
        return type(self), (self.event,)
