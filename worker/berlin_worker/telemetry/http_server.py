"""``/metrics``, ``/livez`` and ``/readyz``, from threads: they answer while the loop is blocked."""

import io
import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final

from prometheus_client import CollectorRegistry, MetricsHandler

from berlin_worker.errors import SettingsError

logger = logging.getLogger(__name__)

_MOST_CONNECTIONS: Final = 32
"""At once, each with a thread. They are among the files that ``pool/file_limit.py`` counts."""
_REQUEST_S: Final = 20.0
"""How long a connection may last: it has one request. Prometheus waits for 10 s by default."""
_SILENT_S: Final = 5.0
"""How long a connection may be silent."""
_POLL_S: Final = 0.2
"""Seconds between two checks of the server whether to close: closing may take as long."""

Route = Callable[[], tuple[int, Mapping[str, Any]]]
"""HTTP status and JSON body."""


@contextmanager
def serving(
    host: str, port: int, registry: CollectorRegistry, routes: Mapping[str, Route]
) -> Iterator[int]:
    """Serve ``routes`` by their path, and the metrics; yields the port.

    Raises ``SettingsError`` if it cannot listen.
    """
    handler = type("Handler", (_Handler,), {"registry": registry, "routes": routes})
    try:
        family = socket.getaddrinfo(host, port, flags=socket.AI_PASSIVE)[0][0]
        server = type("Server", (_Server,), {"address_family": family})((host, port), handler)
    except OSError as error:
        message = (
            f"WORKER_HTTP_PORT: cannot listen on {host} port {port}: {error.strerror or error}"
        )
        raise SettingsError(message) from None
    with server:
        thread = threading.Thread(
            target=server.serve_forever, args=(_POLL_S,), name="http", daemon=True
        )
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, *args: Any) -> None:
        self._open: dict[Any, float] = {}  # connection: when it has to end
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection; close it at once if there are too many."""
        if len(self._open) >= _MOST_CONNECTIONS:
            self.shutdown_request(request)
            return
        self._open[request] = monotonic() + _REQUEST_S
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, which counts no longer."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End the connections whose time is over; their threads close them."""
        for request, end in list(self._open.items()):
            if end < monotonic():
                with suppress(OSError):  # it is closed
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # the signature is the base's
        # Most often the other side has gone: a probe that waited no longer.
        logger.warning("a request of the HTTP port failed: %s", type(sys.exception()).__name__)


class _Handler(MetricsHandler):
    timeout = _SILENT_S
    routes: Mapping[str, Route]

    def do_GET(self) -> None:  # noqa: N802  # the name is http.server's
        path = self.path.partition("?")[0]
        if path == "/metrics":
            super().do_GET()
        elif route := self.routes.get(path):
            self._answer(*route())
        else:
            self._answer(404, {"paths": ["/metrics", *self.routes]})

    def do_HEAD(self) -> None:  # noqa: N802  # the name is http.server's
        """Answer as GET does, without a body: :meth:`end_headers` drops it."""
        self.do_GET()

    def end_headers(self) -> None:
        """Send the headers; of a HEAD request nothing follows them."""
        super().end_headers()
        if self.command == "HEAD":
            self.wfile = io.BytesIO()

    def _answer(self, status: int, report: Mapping[str, Any]) -> None:
        body = json.dumps(report).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
