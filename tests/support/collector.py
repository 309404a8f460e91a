"""A collector of traces: it keeps the spans that OpenTelemetry sends by OTLP over HTTP."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.workers import wait_until


@dataclass(frozen=True)
class Span:
    """One span; IDs in hex."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    events: list[str]


@dataclass
class Collector:
    """All spans that have arrived; ``raw`` has the bytes of all requests."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    raw: bytes = b""

    def named(self, name: str, count: int = 1) -> list[Span]:
        """Return the spans of this name, once there are ``count``."""

        def found() -> list[Span]:
            return [span for span in tuple(self.spans) if span.name == name]

        wait_until(
            lambda: len(found()) >= count, f"{count} of {name}: {[s.name for s in self.spans]}"
        )
        return found()

    @property
    def environ(self) -> dict[str, str]:
        """Settings of a worker that sends its spans here, at once."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def take(self, body: bytes) -> None:
        """Keep the spans of one request."""
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += [_span(each) for each in scope.spans]


def _span(message: Any) -> Span:
    return Span(
        message.name,
        message.trace_id.hex(),
        message.span_id.hex(),
        message.parent_span_id.hex(),
        {each.key: _value(each.value) for each in message.attributes},
        [event.name for event in message.events],
    )


def _value(message: Any) -> Any:
    kind = message.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in message.array_value.values]
    return getattr(message, kind)


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector while the block runs."""
    held = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that http.server calls
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            held.take(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    held.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
