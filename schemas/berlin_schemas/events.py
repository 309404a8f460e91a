"""The events of a job, on its channel and in its log.

One JSON object each, version 1. ``seq`` counts from 1 without a gap over the
whole life of a job; ``attempt`` counts from 1; ``ts`` is Unix time in seconds.
``completed``, ``failed`` and ``cancelled`` are terminal: a job has exactly one,
and it is the last event of its log. Unknown fields are ignored, so that a
later version may add some.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    WithJsonSchema,
)

from berlin_schemas.errors import ErrorInfo
from berlin_schemas.names import JOB_ID_PATTERN

VERSION: Final = 1

JobId = Annotated[str, Field(pattern=f"^{JOB_ID_PATTERN}$")]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, ser_json_inf_nan="null")

    v: Literal[1] = VERSION
    job_id: JobId
    seq: int = Field(ge=1)
    attempt: int = Field(ge=1)
    ts: float = Field(allow_inf_nan=False)
    db: int = Field(default=0, ge=0)
    """The Redis database of the worker. All databases of a server share its channels, so a reader
    skips events of a database other than its own."""


class Started(_Event):
    """An attempt has begun at the ``model`` of ``provider``; the first event of a job."""

    type: Literal["started"] = "started"
    provider: str | None = None
    model: str | None = None


class Chunk(_Event):
    """A piece of text, never empty."""

    type: Literal["chunk"] = "chunk"
    content: str = Field(min_length=1)


class Reasoning(_Event):
    """A piece of the model's reasoning, never empty."""

    type: Literal["reasoning"] = "reasoning"
    content: str = Field(min_length=1)


class ToolCall(_Event):
    """A piece of a tool call.

    ``index`` counts the calls of the answer from 0. ``id`` and ``name`` are in the first event of
    a call alone. ``arguments`` of all its events, joined, are JSON text.
    """

    type: Literal["tool_call"] = "tool_call"
    index: int = Field(ge=0)
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Reset(_Event):
    """A new attempt has begun: discard every earlier chunk, reasoning and tool call."""

    type: Literal["reset"] = "reset"
    reason: str


class Timings(BaseModel):
    """Where the time of a completed job went, in milliseconds.

    - ``queue_ms``: from the submission to the first attempt; without a record of the submission,
      from the receipt by the worker.
    - ``login_ms``: waiting for a token, in the last attempt.
    - ``first_chunk_ms``: from the start of the last attempt to its first chunk, or ``None``.
    - ``stream_ms``: from that chunk to the end.
    - ``total_ms``: from the beginning of ``queue_ms`` to the end of the job.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    queue_ms: Milliseconds
    login_ms: Milliseconds
    first_chunk_ms: Milliseconds | None
    stream_ms: Milliseconds
    total_ms: Milliseconds


FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "interrupted"]
_REASONS: Final[Mapping[str, FinishReason]] = {name: name for name in get_args(FinishReason)}


def finish_reason(reason: str) -> FinishReason:
    """Return ``reason``, or ``stop`` for an unknown one."""
    return _REASONS.get(reason, "stop")


def _known(reason: object) -> object:
    return finish_reason(reason) if isinstance(reason, str) else reason


def finite(value: Any) -> Any:
    """Return a value of JSON with ``None`` for NaN and infinity, which are in no JSON."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Usage = Annotated[dict[str, Any], AfterValidator(finite)]
"""Python's parser reads NaN and 1e400 in the log of a stranger; its writer would write them on."""


class _Ending(_Event):
    """A terminal event.

    ``usage`` is that of the last attempt, as the upstream has reported it. ``usage_total`` is the
    sum over all attempts, if there were several.
    """

    usage: Usage | None = None
    usage_total: Usage | None = None


class Completed(_Ending):
    """The job has its result: all text of the upstream, or (``interrupted``) a part that is kept.

    ``provider`` and ``model`` have answered. An unknown reason becomes ``stop``.
    """

    type: Literal["completed"] = "completed"
    finish_reason: Annotated[
        FinishReason,
        BeforeValidator(_known),
        WithJsonSchema(
            {
                "type": "string",
                "examples": sorted(_REASONS),
                "description": "An open set: an unknown reason counts as stop.",
            }
        ),
    ]
    timings: Timings
    provider: str | None = None
    model: str | None = None


class Failed(_Ending):
    """The job has ended without a result, because of ``error``."""

    type: Literal["failed"] = "failed"
    error: ErrorInfo


class Cancelled(_Ending):
    """The job has ended because a client cancelled it."""

    type: Literal["cancelled"] = "cancelled"
    reason: str


Event = Annotated[
    Started | Chunk | Reasoning | ToolCall | Reset | Completed | Failed | Cancelled,
    Field(discriminator="type"),
]
Terminal = Completed | Failed | Cancelled
TERMINAL_TYPES: Final = frozenset({"completed", "failed", "cancelled"})

EVENT: Final[TypeAdapter[Event]] = TypeAdapter(Event)


_OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {
    "started": ("provider", "model"),
    "tool_call": ("id", "name"),
    "completed": ("provider", "model", "usage", "usage_total"),
    "failed": ("usage", "usage_total"),
    "cancelled": ("usage", "usage_total"),
}


def encode(event: Event) -> bytes:
    """Return the event as one line of JSON; fields of ``None`` and database 0 are left out."""
    fields = event.__dict__  # for two events a job: getattr would cost more than to_json
    leave_out = {name for name in _OPTIONAL.get(event.type, ()) if fields[name] is None}
    if not event.db:
        leave_out.add("db")
    # Faster than model_dump_json, which calls this with a dozen options and decodes the bytes.
    return event.__pydantic_serializer__.to_json(event, exclude=leave_out)


def decode(data: bytes | str) -> Event:
    """Return the event in ``data``; raises ``ValueError`` (pydantic's) if ``data`` is no event."""
    return EVENT.validate_json(data)
