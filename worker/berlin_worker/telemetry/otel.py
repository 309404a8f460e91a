"""Spans by OpenTelemetry. It needs the extra ``otel``: it is imported if traces are wanted.

Names of spans and attributes follow the GenAI and messaging conventions,
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/; ours begin with ``berlin.``.
No message of an error is in a span: it may quote the reply. The error code is.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode

from berlin_schemas import PromptJob, names
from berlin_worker.errors import Fenced, JobError
from berlin_worker.telemetry.token_usage import tokens_of
from berlin_worker.telemetry.tracing import CURRENT, ChatReport, D, to_carrier

_CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURES: Final = frozenset({"true", "1", "span_only", "span_and_event"})
_OPTIONS: Final = (
    "temperature", "top_p", "max_tokens", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
_SERVER_FAILED: Final = 500
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


def captures(environ: Mapping[str, str]) -> bool:
    """Return whether spans hold prompts and replies: only if the environment asks for it."""
    return environ.get(_CAPTURE, "").strip().lower() in _CAPTURES


class OtelTracer:
    """``Tracer`` over a tracer of OpenTelemetry; ``captures`` puts prompts and replies in spans."""

    def __init__(
        self,
        tracer: trace.Tracer,
        *,
        server_url: Callable[[str], str | None] = lambda _: None,
        captures: bool = False,
    ) -> None:
        self._tracer = tracer
        self._server_url = server_url
        self._servers: dict[str, dict[str, Any]] = {}
        self._captures = captures

    @property
    def fields(self) -> Collection[str]:
        """The headers of the propagators that ``OTEL_PROPAGATORS`` names."""
        return propagate.get_global_textmap().fields

    @contextlib.contextmanager
    def delivery(self, job_id: str, headers: Mapping[str, str]) -> Iterator["_JobTrace"]:
        """Open the span ``worker.generate``, below the current one or else the producer's.

        If the whole process is instrumented, a span is current, and its parent is the producer's.
        """
        if not names.is_job_id(job_id):
            job_id = "(none that can be used)"
        above: Context | None = None
        if not trace.get_current_span().get_span_context().is_valid:
            above = propagate.extract(headers)
        attributes = {
            "messaging.system": "celery",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": names.QUEUE,
            "messaging.message.id": job_id,
            "berlin.job.id": job_id,
        }
        with self._tracer.start_as_current_span(
            names.TASK,
            context=above,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            parent = trace.get_current_span(above) if above is not None else span
            job_trace = _JobTrace(self, job_id, span, parent)
            token = CURRENT.set(job_trace)
            try:
                yield job_trace
            except asyncio.CancelledError:
                job_trace.ended("stopped")
                raise
            finally:
                CURRENT.reset(token)

    @contextlib.contextmanager
    def request(
        self, method: str, route: str, headers: Mapping[str, str]
    ) -> Iterator["_RequestTrace"]:
        """Open the span ``{method} {route}``, below the current one or else the sender's."""
        above: Context | None = None
        if not trace.get_current_span().get_span_context().is_valid:
            above = propagate.extract(headers)
        with self._tracer.start_as_current_span(
            f"{method} {route}",
            context=above,
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield _RequestTrace(span)

    def _server(self, provider: str) -> dict[str, Any]:
        # Read once for each provider; only providers that exist get here, so there are few.
        if provider not in self._servers:
            self._servers[provider] = _server(self._server_url(provider))
        return self._servers[provider]

    @contextlib.contextmanager
    def chat(
        self, job: PromptJob, job_id: str, attempt: int, report: ChatReport
    ) -> Iterator["_Chat"]:
        """Open the span ``chat {model}``; it records the code of an error in the block."""
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": job.provider,
            "gen_ai.request.model": job.model,
            "gen_ai.request.stream": True,
            **self._server(job.provider),
            "berlin.job.id": job_id,
            "berlin.job.attempt": attempt,
        }
        for option in _OPTIONS:
            value = job.options.get(option)
            if isinstance(value, int | float) and not isinstance(value, bool):
                attributes[f"gen_ai.request.{option}"] = value
        if self._captures:
            attributes["gen_ai.input.messages"] = _json(
                [_message(each.role, _text_of(each.content)) for each in job.messages]
            )
        with self._tracer.start_as_current_span(
            f"chat {job.model}",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
            end_on_exit=False,
        ) as span:
            chat = _Chat(span, report, captures=self._captures)
            try:
                yield chat
            except JobError as error:
                chat.failed(error)
                raise
            except Fenced:
                chat.end("fenced")
                raise
            except asyncio.CancelledError:
                chat.end("cancelled")
                raise
            finally:
                chat.end()


class _RequestTrace:
    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= _SERVER_FAILED:
            self._span.set_status(StatusCode.ERROR)


class _JobTrace:
    def __init__(self, tracer: OtelTracer, job_id: str, span: Span, parent: Span) -> None:
        self._tracer = tracer
        self._job_id = job_id
        self._span = span
        self._parent = parent
        self._over = False

    @property
    def carrier(self) -> str:
        """The producer's span, so that deliveries stand side by side; or else this span."""
        known = self._parent if self._parent.get_span_context().is_valid else self._span
        headers: dict[str, str] = {}
        propagate.inject(headers, trace.set_span_in_context(known, Context()))
        return to_carrier(headers)

    def chat(
        self, job: PromptJob, attempt: int, report: ChatReport
    ) -> contextlib.AbstractContextManager["_Chat"]:
        return self._tracer.chat(job, self._job_id, attempt, report)

    def retried(self, attempt: int, code: str, delay_s: float) -> None:
        attributes: dict[str, Any] = {
            "berlin.job.attempt": attempt,
            "error.type": code,
            "berlin.retry.delay_s": delay_s,
        }
        self._span.add_event("retry", attributes)

    def ended(self, how: str, code: str = "") -> None:
        if self._over and how != "lost":  # the store has refused the last event
            return
        self._over = True
        self._span.set_attribute("berlin.job.outcome", how)
        if code:
            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR, code)


class _Chat:
    def __init__(self, span: Span, report: ChatReport, *, captures: bool) -> None:
        self._span = span
        self._report = report
        self._begun = time.monotonic()
        self._captures = captures
        self._over = False
        self._text: list[str] = []

    def reading(self, stream: AsyncGenerator[D, None]) -> AsyncGenerator[D, None]:
        return self._kept(stream) if self._captures else stream

    async def _kept(self, stream: AsyncGenerator[D, None]) -> AsyncGenerator[D, None]:
        async with contextlib.aclosing(stream):
            async for deltas in stream:
                self._text += [delta for delta in deltas if isinstance(delta, str)]
                yield deltas

    def first_chunk(self) -> None:
        # By the convention it counts from the request on: without the wait for a login.
        after_s = time.monotonic() - self._begun - self._report.login_s
        self._span.set_attribute("gen_ai.response.time_to_first_chunk", round(max(after_s, 0.0), 6))

    def finished(self) -> None:
        report = self._report
        self._span.set_attribute("gen_ai.response.finish_reasons", [report.finish_reason])
        self._end(report.finish_reason)

    def failed(self, error: JobError) -> None:
        self._span.set_attribute("error.type", error.code.value)
        if error.upstream_status is not None:
            self._span.set_attribute("http.response.status_code", error.upstream_status)
        self._span.set_status(StatusCode.ERROR, error.code.value)

    def end(self, event: str = "") -> None:
        if event and not self._over:
            self._span.add_event(event)
        self._end("error")

    def _end(self, finish_reason: str) -> None:
        if self._over:
            return
        self._over = True
        self._span.set_attribute("berlin.login_s", round(self._report.login_s, 6))
        for kind, tokens in tokens_of(self._report.usage):
            self._span.set_attribute(f"gen_ai.usage.{kind}_tokens", tokens)
        if self._captures:
            reply = _message("assistant", "".join(self._text)) | {"finish_reason": finish_reason}
            self._span.set_attribute("gen_ai.output.messages", _json([reply]))
        self._span.end()


def _server(url: str | None) -> dict[str, Any]:
    if url is None:
        return {}
    try:
        parts = urlsplit(url)
        given = parts.port
    except ValueError:  # it is no URL
        return {}
    port = given or _DEFAULT_PORTS.get(parts.scheme)
    return {"server.address": parts.hostname or "", **({"server.port": port} if port else {})}


def _text_of(content: str | Sequence[Mapping[str, object]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(str(part.get("text", "")) for part in content if part["type"] == "text")


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _json(value: Any) -> str:
    # Half a surrogate pair, which JSON can spell and the exporters cannot, becomes "?".
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
