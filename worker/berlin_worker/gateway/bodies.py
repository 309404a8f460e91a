"""The bodies of the gateway's own responses."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from berlin_schemas import ErrorInfo
from berlin_worker.client.values import Status


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Body):
    """Why a request failed, in OpenAI's shape."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(_Body):
    """The body of every error."""

    error: Problem


class Accepted(_Body):
    """A job that is on the queue. ``events`` is the path of its events."""

    job_id: str
    events: str
    ticket: str


class CancelRequested(_Body):
    """A job whose cancellation was requested."""

    job_id: str
    cancel_requested: Literal[True]


class Ticket(_Body):
    """A ticket for one job; it expires after ``expires_in_s`` seconds."""

    ticket: str
    expires_in_s: int


class ToolCall(_Body):
    """A whole tool call; ``arguments`` is JSON text as the model has written it."""

    id: str
    name: str
    arguments: str


class JobResult(_Body):
    """The answer of a completed job; it has ``reasoning`` and ``tool_calls`` if there are any."""

    text: str
    finish_reason: str
    reasoning: str = ""
    tool_calls: list[ToolCall] = []


class ListedJob(_Body):
    """The content of a job record. Times are Unix seconds by the clock of Redis."""

    job_id: str
    status: Status
    attempt: int
    seq: int
    cancel_requested: bool
    created_ts: float | None
    started_ts: float | None
    tenant: str | None
    metadata: dict[str, JsonValue]
    error: ErrorInfo | None
    reason: str | None


class Job(ListedJob):
    """A job with its result, which is ``None`` before the end, and once the log has expired.

    While the job waits for a worker, ``queued_jobs`` is the number of waiting jobs, and
    ``queue_position`` its place among them: 1 is the next. ``None`` means unknown.
    """

    queued_jobs: int | None = None
    queue_position: int | None = None
    result: JobResult | None = None
    usage: dict[str, Any] | None = None


class JobPage(_Body):
    """One page of jobs; ``next`` is passed as ``before`` for the next one."""

    jobs: list[ListedJob]
    next: str | None


class Model(_Body):
    """A model that can be asked for; ``owned_by`` is the provider."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(_Body):
    """The models that the caller may name, of those that the gateway has found."""

    object: Literal["list"]
    data: list[Model]


class Fleet(BaseModel):
    """All running workers and their sums, as `berlin top --json` prints them."""

    v: Literal[1]
    ts: float
    waiting: int | None
    in_flight: int
    capacity: int | None
    models: dict[str, list[str]]
    workers: list[dict[str, Any]]


class PolledEvents(_Body):
    """Events after the cursor, and the new cursor."""

    events: list[dict[str, Any]]
    after: int
    ended: bool
