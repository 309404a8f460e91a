"""``/metrics``, ``/livez`` and ``/readyz``, from threads: they answer while the loop is blocked."""

import io
import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from prometheus_client import CollectorRegistry, MetricsHandler

from berlin_worker.errors import SettingsError

logger = logging.getLogger(__name__)

_REQUEST_TIMEOUT_S: Final = 5.0
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

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # the signature is the base's
        # Most often the other side has gone: a probe that waited no longer.
        logger.warning("a request of the HTTP port failed: %s", type(sys.exception()).__name__)


class _Handler(MetricsHandler):
    timeout = _REQUEST_TIMEOUT_S
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
