"""The events of a job, on its channel and in its log.

One JSON object each, version 1. ``seq`` counts from 1 without a gap over the
whole life of a job; ``attempt`` counts from 1; ``ts`` is Unix time in seconds.
``completed``, ``failed`` and ``cancelled`` are terminal: a job has exactly one,
and it is the last event of its log. Unknown fields are ignored, so that a
later version may add some.
"""

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, WithJsonSchema

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
    """The first event of a job: an attempt has begun."""

    type: Literal["started"] = "started"


class Chunk(_Event):
    """A piece of text, never empty."""

    type: Literal["chunk"] = "chunk"
    content: str = Field(min_length=1)


class Reset(_Event):
    """A new attempt has begun: discard every earlier chunk."""

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


FinishReason = Literal["stop", "length", "interrupted"]
_REASONS: Final = frozenset(get_args(FinishReason))


def _known(reason: object) -> object:
    """Return ``reason``, or ``stop`` for one of a later version."""
    return "stop" if isinstance(reason, str) and reason not in _REASONS else reason


class Completed(_Event):
    """The job has its result: all text of the upstream, or (``interrupted``) a part that is kept.

    An unknown reason becomes ``stop``.
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
    usage: dict[str, Any] | None = None


class Failed(_Event):
    """The job has ended without a result, because of ``error``."""

    type: Literal["failed"] = "failed"
    error: ErrorInfo


class Cancelled(_Event):
    """The job has ended because a client cancelled it."""

    type: Literal["cancelled"] = "cancelled"
    reason: str


Event = Annotated[
    Started | Chunk | Reset | Completed | Failed | Cancelled, Field(discriminator="type")
]
Terminal = Completed | Failed | Cancelled
TERMINAL_TYPES: Final = frozenset({"completed", "failed", "cancelled"})

EVENT: Final[TypeAdapter[Event]] = TypeAdapter(Event)


_NOTHING: Final[set[str]] = set()
_DATABASE: Final = {"db"}
_USAGE: Final = {"usage"}
_DATABASE_AND_USAGE: Final = {"db", "usage"}


def encode(event: Event) -> bytes:
    """Return the event as one line of JSON; ``usage`` of ``None`` and database 0 are left out."""
    no_usage = event.type == "completed" and event.usage is None
    leave_out = _NOTHING if event.db else _DATABASE
    if no_usage:
        leave_out = _USAGE if event.db else _DATABASE_AND_USAGE
    # Faster than model_dump_json, which calls this with a dozen options and decodes the bytes.
    return event.__pydantic_serializer__.to_json(event, exclude=leave_out)


def decode(data: bytes | str) -> Event:
    """Return the event in ``data``; raises ``ValueError`` (pydantic's) if ``data`` is no event."""
    return EVENT.validate_json(data)
