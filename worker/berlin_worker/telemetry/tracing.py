"""Traces: one from the producer's span over each delivery of a job to each call upstream.

The code that runs a job uses the protocols of this module. Without the extra ``otel``, or if
nothing asks for traces, it gets :data:`OFF`, which does nothing: OpenTelemetry is not imported.
"""

import contextlib
import json
import re
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Protocol, Self, TypeVar

from berlin_schemas import PromptJob

_CARRIER_BYTES: Final = 1024
_PARENT: Final = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_STATE: Final = re.compile("[ -~]{1,512}", re.ASCII)
_SENDER: Final[ContextVar[Mapping[str, str] | None]] = ContextVar("sender_trace", default=None)
"""The W3C headers of the HTTP request that the running code handles."""


class ChatReport(Protocol):
    """The report of a call upstream at its end; see ``providers.base.Report``."""

    login_s: float
    finish_reason: str
    usage: dict[str, Any] | None


D = TypeVar("D", bound=Iterable[object])
"""The deltas of one read of a stream: text as ``str`` among other deltas."""


class Chat(Protocol):
    """The span of one call upstream."""

    def reading(self, stream: AsyncGenerator[D, None]) -> AsyncGenerator[D, None]:
        """Return ``stream``, or one that keeps the text if the operator wants it in traces."""

    def first_chunk(self) -> None:
        """Record that the first chunk has arrived."""

    def finished(self) -> None:
        """End the span: the upstream has sent all, and the report is complete."""


class JobTrace(Protocol):
    """The span of one delivery of a job."""

    @property
    def carrier(self) -> str:
        """The text by which a later delivery of the job joins this trace; may be empty."""

    def chat(
        self, job: PromptJob, attempt: int, report: ChatReport
    ) -> AbstractContextManager[Chat]:
        """Open a span for the call upstream while the block runs; it records how the block ends."""

    def retried(self, attempt: int, code: str, delay_s: float) -> None:
        """Record that ``attempt`` ended with ``code`` and that another follows in this process."""

    def ended(self, how: str, code: str = "") -> None:
        """Record that the job is over or the delivery was dropped; ``code``: why it failed."""


class RequestTrace(Protocol):
    """The span of one HTTP request."""

    def answered(self, status: int) -> None:
        """Record the status of the response."""


class Tracer(Protocol):
    """The source of spans, one for a process. A delivery finds its trace by :func:`current`."""

    @property
    def fields(self) -> Iterable[str]:
        """The headers of a message that carry a trace."""

    def delivery(self, job_id: str, headers: Mapping[str, str]) -> AbstractContextManager[JobTrace]:
        """Open a span for one delivery while the block runs, below that of the producer."""

    def request(
        self, method: str, route: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[RequestTrace]:
        """Open a span for an HTTP request while the block runs, below that of its sender.

        What the block submits continues the trace, also if this process records no spans.
        """


class _Off(AbstractContextManager["_Off"]):
    """A tracer, a trace and a span that record nothing."""

    fields: Iterable[str] = ()
    carrier = ""

    def __exit__(self, *_: object) -> None:
        pass

    def delivery(self, job_id: str, headers: Mapping[str, str]) -> Self:  # noqa: ARG002  # the protocol's
        return self

    @contextlib.contextmanager
    def request(self, method: str, route: str, headers: Mapping[str, str]) -> Iterator[Self]:  # noqa: ARG002  # the protocol's
        token = _SENDER.set(_trace_of(headers))
        try:
            yield self
        finally:
            _SENDER.reset(token)

    def answered(self, status: int) -> None:
        pass

    def chat(self, job: PromptJob, attempt: int, report: ChatReport) -> Self:  # noqa: ARG002  # the protocol's
        return self

    def reading(self, stream: AsyncGenerator[D, None]) -> AsyncGenerator[D, None]:
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
"""The tracer, trace and span of a process that traces nothing."""
CURRENT: Final[ContextVar[JobTrace]] = ContextVar("job_trace", default=OFF)


def current() -> JobTrace:
    """Return the trace of the delivery that the running code works for, or :data:`OFF`.

    The asyncio task of the job sets it, and the tasks that it starts inherit it.
    """
    return CURRENT.get()


def _trace_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the W3C headers among ``headers``; empty unless the sender is in a trace."""
    parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
    if not _PARENT.fullmatch(parent):
        return {}
    return {"traceparent": parent} | ({"tracestate": state} if _STATE.fullmatch(state) else {})


def inject() -> dict[str, str]:
    """Return the headers by which a message continues the trace of the caller.

    A program that has not loaded OpenTelemetry is in no trace, except for that of the HTTP request
    that it handles. Empty if there is none.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not trace.get_current_span().get_span_context().is_valid:
        return dict(_SENDER.get() or {})
    from opentelemetry import propagate  # noqa: PLC0415  # only here is it needed, if at all

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


def to_carrier(headers: Mapping[str, str]) -> str:
    """Return ``headers`` as the record of a job stores them; empty if they are too large.

    The baggage is left out: it belongs to this delivery, not to a later one.
    """
    kept = {name: value for name, value in headers.items() if name != "baggage"}
    text = json.dumps(kept, separators=(",", ":")) if kept else ""
    return text if len(text) <= _CARRIER_BYTES else ""


def from_carrier(carrier: str | bytes) -> dict[str, str]:
    """Return the headers that :func:`to_carrier` has packed; empty for any other text."""
    if len(carrier) > _CARRIER_BYTES:
        return {}
    try:
        found = json.loads(carrier or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}
