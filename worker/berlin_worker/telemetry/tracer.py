"""Open the tracer that the environment asks for; OpenTelemetry is imported only then."""

import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from berlin_worker.telemetry.tracing import OFF, Tracer

logger = logging.getLogger(__name__)

_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def asked_for(environ: Mapping[str, str]) -> bool:
    """Return whether the environment asks for traces, by OpenTelemetry's own variables.

    It does if it names an exporter or an endpoint. OpenTelemetry sends traces to ``localhost``
    if nothing is set, which would be a surprise here.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if exporter := environ.get(_EXPORTER, "").strip():
        return exporter.lower() != "none"
    return any(environ.get(name) for name in _ENDPOINTS)


@contextlib.asynccontextmanager
async def open_tracer(
    environ: Mapping[str, str], *, server_url: Callable[[str], str | None] = lambda _: None
) -> AsyncIterator[Tracer]:
    """Open the tracer of this process, and send what it holds when the block ends.

    If ``opentelemetry-instrument`` has started the worker, its tracer is used, else the one that
    the environment describes. ``server_url`` returns the URL of a provider's upstream.
    """
    if not asked_for(environ) and "opentelemetry.sdk.trace" not in sys.modules:
        yield OFF
        return
    try:
        from berlin_worker.telemetry import otel_setup  # noqa: PLC0415  # an extra, loaded only if traces are wanted
    except ImportError:
        logger.warning("no traces: they need the extra, pip install 'berlin-worker[otel]'")
        yield OFF
        return
    async with otel_setup.opened(environ, server_url=server_url, own=asked_for(environ)) as tracer:
        yield tracer or OFF
