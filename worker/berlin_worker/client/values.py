"""Values that the client takes and returns; all frozen."""

from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self

from pydantic import JsonValue

from berlin_schemas import ErrorInfo, Timings
from berlin_schemas.events import FinishReason
from berlin_worker.client.answer import AssembledToolCall
from berlin_worker.errors import ClientError

CLOSED: Final = "the client was closed"
ANOTHER_LOOP: Final = (
    "this client belongs to another event loop or process: make an AsyncClient in each, or use "
    "Client, which threads and forked processes may share"
)
NO_LOOP: Final = "AsyncClient needs a running event loop: call it from a coroutine, or use Client"

Status = Literal["queued", "running", "completed", "failed", "cancelled", "unknown"]


def closed() -> ClientError:
    """Return the error of a call on a client that was closed."""
    return ClientError(CLOSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long a client waits, and how much it keeps in memory."""

    wait_for_start_s: float = 60.0
    """How long a stream from the start waits for a job without any trace: one put
    on the queue by a bare ``send_task`` shows only when a worker takes it. A job that was
    submitted by a client has a record, and is waited for without limit."""
    give_up_after_s: float = 60.0
    """How long a reader waits for a Redis that does not answer, before ``Unavailable``."""
    submit_timeout_s: float = 10.0
    """How long a submission may wait for Redis and the broker, before ``Unavailable``."""
    reread_after_s: float = 5.0
    """A reader that has received nothing for so long reads the log."""
    buffer_bytes: int = 256 * 1024
    """Messages kept for one reader that does not keep up; beyond it they are dropped, and
    the reader goes back to the log for them."""


@dataclass(frozen=True, slots=True)
class Result:
    """A completed job: its answer after the last ``reset``, and the fields of its end.

    ``usage`` is that of the last attempt, ``usage_total`` the sum of several.
    """

    text: str
    finish_reason: FinishReason
    timings: Timings
    usage: dict[str, Any] | None
    reasoning: str = ""
    tool_calls: tuple[AssembledToolCall, ...] = ()
    usage_total: dict[str, Any] | None = None
    provider: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The content of a job record; ``unknown`` if no record exists (not taken by a worker
    yet, or expired). Times are Unix seconds by the clock of Redis."""

    job_id: str
    status: Status
    attempt: int = 0
    seq: int = 0
    cancel_requested: bool = False
    created_ts: float | None = None
    started_ts: float | None = None
    tenant: str | None = None
    metadata: dict[str, JsonValue] = field(default_factory=dict)
    error: ErrorInfo | None = None
    """Why a failed job has failed, as long as its log is there."""
    reason: str | None = None
    """Why a cancelled job was cancelled, as long as its log is there."""

    def replaced(self, **changes: Any) -> Self:
        """Return a copy with ``changes``."""
        return replace(self, **changes)
