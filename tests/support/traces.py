"""A tracer that records its spans, and jobs to trace."""

from collections.abc import AsyncGenerator

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from berlin_schemas import PromptJob
from berlin_worker.telemetry.otel import OtelTracer

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PRODUCER = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
SECRET = "the text of a prompt"


class Recorder:
    """A tracer, and the spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.otel = self.provider.get_tracer("test")

    def tracer(self, **changes: object) -> OtelTracer:
        return OtelTracer(self.otel, **changes)  # type: ignore[arg-type]  # options of the test

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """The spans that have ended, by name; of several with one name the last."""
        return {span.name: span for span in self.exporter.get_finished_spans()}


def job(**fields: object) -> PromptJob:
    return PromptJob.model_validate(
        {"messages": [{"role": "user", "content": SECRET}], "model": "m-1", **fields}
    )


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return trace.format_trace_id(span.context.trace_id)


def text_of(spans: dict[str, ReadableSpan]) -> str:
    return "".join(span.to_json() for span in spans.values())


async def read(stream: AsyncGenerator[list[str], None]) -> list[list[str]]:
    return [deltas async for deltas in stream]


async def deltas(*said: list[str]) -> AsyncGenerator[list[str], None]:
    for each in said:
        yield each
