"""Exporters of spans, by OpenTelemetry's own variables; needs the extra ``otel``."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import entry_points, version
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from berlin_worker.telemetry.otel import OtelTracer, captures

logger = logging.getLogger(__name__)

_SHUTDOWN_S: Final = 5.0


@contextlib.asynccontextmanager
async def opened(
    environ: Mapping[str, str], *, server_url: Callable[[str], str | None], own: bool
) -> AsyncIterator[OtelTracer | None]:
    """Yield the tracer of this process, or ``None`` if it has no exporter.

    It uses the OpenTelemetry provider of the process if one exists, and otherwise builds one if
    ``own`` is set: the environment asks for traces.
    """
    provider: Any = trace.get_tracer_provider()
    foreign = not isinstance(provider, trace.ProxyTracerProvider)
    mine = None if foreign or not own else _make_provider(environ)
    if mine is None and not foreign:
        yield None
        return
    tracer = (mine or provider).get_tracer("worker", version("berlin-worker"))
    try:
        yield OtelTracer(tracer, server_url=server_url, captures=captures(environ))
    finally:
        if mine is not None:
            await _shut_down(mine)


def _make_provider(environ: Mapping[str, str]) -> TracerProvider | None:
    exporters = [
        exporter
        for name in environ.get("OTEL_TRACES_EXPORTER", "").split(",")
        if (exporter := _exporter(name.strip() or "otlp", environ)) is not None
    ]
    if not exporters:
        return None
    resource = Resource.create({"service.name": "berlin-worker"})
    # The environment names the service; `create` would prefer ours.
    resource = resource.merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


async def _shut_down(provider: TracerProvider) -> None:
    """Send the spans that are left, in a thread: a silent collector delays this by 5 s at most."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):  # the loop is closed by now
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name="traces-shutdown", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SHUTDOWN_S):
            await done.wait()


def _exporter(name: str, environ: Mapping[str, str]) -> SpanExporter | None:
    if name == "otlp":
        protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL"
        )
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    for found in entry_points(group="opentelemetry_traces_exporter", name=name):
        exporter: SpanExporter = found.load()()
        return exporter
    logger.error("no traces to %s: no installed package has an exporter of this name", name)
    return None
