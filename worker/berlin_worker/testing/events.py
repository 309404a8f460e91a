"""Builders of events. A field that is not given gets a value that fits the contract.

Every builder takes the head of an event too: ``job_id``, ``seq``, ``attempt``, ``ts``.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypedDict, Unpack

from berlin_schemas import (
    Cancelled,
    Chunk,
    Completed,
    ErrorCode,
    ErrorInfo,
    Event,
    Failed,
    Reasoning,
    Reset,
    Started,
    Timings,
    ToolCall,
)
from berlin_schemas.events import FinishReason
from berlin_worker.client.answer import AssembledToolCall

JOB_ID: Final = "job-1"
TIMINGS: Final = Timings(queue_ms=1, login_ms=0, first_chunk_ms=2, stream_ms=3, total_ms=6)
_WORD: Final = re.compile(r"\S+\s*|\s+")


class Head(TypedDict, total=False):
    """Fields of every event; ``ts`` is in Unix seconds."""

    job_id: str
    seq: int
    attempt: int
    ts: float


def started(**head: Unpack[Head]) -> Started:
    """Return a ``started``: an attempt begins."""
    return Started(**_head(head))


def chunk(content: str, **head: Unpack[Head]) -> Chunk:
    """Return a piece of text, which must not be empty."""
    return Chunk(**_head(head), content=content)


def reasoning(content: str, **head: Unpack[Head]) -> Reasoning:
    """Return a piece of reasoning, which must not be empty."""
    return Reasoning(**_head(head), content=content)


def tool_call(
    arguments: str = "",
    *,
    index: int = 0,
    id: str | None = None,  # noqa: A002  # the name of the field on the wire
    name: str | None = None,
    **head: Unpack[Head],
) -> ToolCall:
    """Return a piece of a tool call; ``id`` and ``name`` are in the first piece alone."""
    return ToolCall(**_head(head), index=index, id=id, name=name, arguments=arguments)


def reset(reason: str = "upstream_error", **head: Unpack[Head]) -> Reset:
    """Return a ``reset``: a new attempt begins, and earlier chunks do not count."""
    return Reset(**_head(head), reason=reason)


def completed(
    finish_reason: FinishReason = "stop",
    *,
    usage: dict[str, Any] | None = None,
    timings: Timings = TIMINGS,
    **head: Unpack[Head],
) -> Completed:
    """Return the end of a job that has succeeded."""
    fields = _head(head)
    return Completed(**fields, finish_reason=finish_reason, timings=timings, usage=usage)


def failed(
    code: ErrorCode | str = ErrorCode.UPSTREAM_ERROR,
    message: str = "the upstream failed",
    *,
    retryable: bool = False,
    upstream_status: int | None = None,
    **head: Unpack[Head],
) -> Failed:
    """Return the end of a job that has failed. Raises ``ValueError`` for an unknown code."""
    error = ErrorInfo(
        code=ErrorCode(code), message=message, retryable=retryable, upstream_status=upstream_status
    )
    return Failed(**_head(head), error=error)


def cancelled(reason: str = "requested", **head: Unpack[Head]) -> Cancelled:
    """Return the end of a job that was cancelled."""
    return Cancelled(**_head(head), reason=reason)


def answer(
    text: str,
    *,
    job_id: str = JOB_ID,
    finish_reason: FinishReason = "stop",
    usage: dict[str, Any] | None = None,
    reasoning_text: str = "",
    tool_calls: Sequence[AssembledToolCall] = (),
) -> list[Event]:
    """Return the events of a job that streams reasoning, ``text`` (one word a chunk), and calls.

    The arguments of each call come in an event of their own.
    """
    deltas: list[Event] = [reasoning(word) for word in _WORD.findall(reasoning_text)]
    deltas += [chunk(word) for word in _WORD.findall(text)]
    for index, call in enumerate(tool_calls):
        deltas.append(tool_call(index=index, id=call.id, name=call.name))
        deltas.append(tool_call(call.arguments, index=index))
    return numbered([started(), *deltas, completed(finish_reason, usage=usage)], job_id=job_id)


def numbered(events: Iterable[Event], *, job_id: str = JOB_ID) -> list[Event]:
    """Return ``events`` as those of one job, with ``seq`` from 1."""
    return [
        event.model_copy(update={"job_id": job_id, "seq": seq})
        for seq, event in enumerate(events, 1)
    ]


def _head(head: Head) -> dict[str, Any]:
    return {"job_id": JOB_ID, "seq": 1, "attempt": 1, "ts": 0.0, **head}
