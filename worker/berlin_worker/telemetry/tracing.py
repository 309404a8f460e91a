"""Traces: one from the producer's span over each delivery of a job to each call upstream.

What runs a job knows the protocols here. Without the extra ``otel``, or where nothing asks for
traces, it gets :data:`OFF`, which does nothing, and OpenTelemetry is never imported.
"""

import json
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Literal, Protocol, Self

from berlin_schemas import PromptJob

_MEMO_BYTES: Final = 1024


class ChatReport(Protocol):
    """What a call upstream has reported when it ends; see ``providers.base.Report``."""

    login_s: float
    finish_reason: Literal["stop", "length"]
    usage: dict[str, Any] | None


class Chat(Protocol):
    """The span of one call upstream."""

    def reading(self, stream: AsyncGenerator[list[str], None]) -> AsyncGenerator[list[str], None]:
        """``stream`` itself, unless the operator wants the text of replies in traces."""

    def first_chunk(self) -> None:
        """The first chunk has come."""

    def finished(self) -> None:
        """The upstream has said all, and the report is complete; ends the span."""


class JobTrace(Protocol):
    """The span of one delivery of a job."""

    @property
    def carrier(self) -> str:
        """What a later delivery of the job should carry, to be of the same trace; may be empty."""

    def chat(
        self, job: PromptJob, attempt: int, report: ChatReport
    ) -> AbstractContextManager[Chat]:
        """A span below it for the call upstream, as long as the block runs; sees how that ends."""

    def retried(self, attempt: int, code: str, delay_s: float) -> None:
        """``attempt`` has ended with ``code``, and the next one follows here."""

    def ended(self, how: str, code: str = "") -> None:
        """The job is over, or the delivery was dropped; ``code`` says why it failed."""


class Tracer(Protocol):
    """Where spans come from. One for a process; what a delivery runs finds its trace by
    :func:`current`.
    """

    @property
    def fields(self) -> Iterable[str]:
        """The headers of a message that carry a trace."""

    def delivery(self, job_id: str, headers: Mapping[str, str]) -> AbstractContextManager[JobTrace]:
        """A span for one delivery, as long as the block runs, below that of the producer."""


class _Off(AbstractContextManager["_Off"]):
    """A tracer, a trace and a span of which nothing remains."""

    fields: Iterable[str] = ()
    carrier = ""

    def __exit__(self, *_: object) -> None:
        pass

    def delivery(self, job_id: str, headers: Mapping[str, str]) -> Self:  # noqa: ARG002  # the protocol's
        return self

    def chat(self, job: PromptJob, attempt: int, report: ChatReport) -> Self:  # noqa: ARG002  # the same
        return self

    def reading(self, stream: AsyncGenerator[list[str], None]) -> AsyncGenerator[list[str], None]:
        return stream

    def first_chunk(self) -> None:
        pass

    def finished(self) -> None:
        pass

    def retried(self, attempt: int, code: str, delay_s: float) -> None:
        pass

    def ended(self, how: str, code: str = "") -> None:
        pass


OFF: Final = _Off()
"""Everything, where nothing is traced."""
CURRENT: Final[ContextVar[JobTrace]] = ContextVar("job_trace", default=OFF)


def current() -> JobTrace:
    """The trace of the delivery that the running code works for; :data:`OFF` where there is none.

    Set in the asyncio task of the job, and seen by the tasks that it starts.
    """
    return CURRENT.get()


def inject() -> dict[str, str]:
    """The headers by which a message continues the trace of the caller.

    Empty where there is none: a program that has no OpenTelemetry loaded is in no trace.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not trace.get_current_span().get_span_context().is_valid:
        return {}
    from opentelemetry import propagate  # noqa: PLC0415  # only here is it needed, if at all

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


def to_carrier(headers: Mapping[str, str]) -> str:
    """``headers`` as they are kept in the record of a job, or nothing if they are too large.

    Not the baggage: it is for whoever handles the message, not for a later one.
    """
    kept = {name: value for name, value in headers.items() if name != "baggage"}
    text = json.dumps(kept, separators=(",", ":")) if kept else ""
    return text if len(text) <= _MEMO_BYTES else ""


def from_carrier(carrier: str | bytes) -> dict[str, str]:
    """Return the headers that :func:`to_carrier` has packed; empty for any other text."""
    if len(carrier) > _MEMO_BYTES:
        return {}
    try:
        found = json.loads(carrier or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}
