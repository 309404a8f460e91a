"""The HTTP port by itself: paths, methods, formats, and clients that hold connections."""

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from berlin_worker.telemetry import http_server
from berlin_worker.telemetry.http_server import serving
from tests.support.http import get
from tests.support.workers import wait_until

pytestmark = pytest.mark.unit


def test_other_paths_and_methods_are_refused():
    with serving("127.0.0.1", 0, CollectorRegistry(), {"/livez": lambda: (200, {})}) as port:
        url = f"http://127.0.0.1:{port}"
        status, _, body = get(f"{url}/nothing")
        assert (status, json.loads(body)) == (404, {"paths": ["/metrics", "/livez"]})
        assert get(f"{url}/livez?verbose")[0] == 200
        assert get(f"{url}/metrics")[0] == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz?verbose", "/metrics", "/nothing"])
def test_head_answers_as_get_without_the_body(path):
    routes = {"/livez": lambda: (200, {}), "/readyz": lambda: (503, {"checks": {}})}
    with serving("127.0.0.1", 0, CollectorRegistry(), routes) as port:
        raw = {}
        for method in ("GET", "HEAD"):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(f"{method} {path} HTTP/1.0\r\n\r\n".encode())
                raw[method] = connection.makefile("rb").read()
    heads = {method: reply.partition(b"\r\n\r\n") for method, reply in raw.items()}
    of_get, of_head = (
        [line for line in heads[method][0].splitlines() if not line.startswith(b"Date:")]
        for method in ("GET", "HEAD")
    )
    assert of_head == of_get
    assert heads["HEAD"][1:] == (b"\r\n\r\n", b"")


@contextlib.contextmanager
def connected(port: int, n: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", port)
        yield [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(n)]


def is_answered(port: int) -> bool:
    with connected(port, 1) as (connection,):
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        return is_open(connection)


def is_open(connection: socket.socket) -> bool:
    """Wait until the port answers or closes the connection; return whether it has answered."""
    try:
        return connection.recv(1) != b""
    except ConnectionError:
        return False


def test_connections_beyond_the_bound_are_closed_and_the_next_is_answered(monkeypatch):
    monkeypatch.setattr(http_server, "_REQUEST_S", 600.0)
    monkeypatch.setattr(http_server._Handler, "timeout", 600.0)
    with serving("127.0.0.1", 0, CollectorRegistry(), {"/livez": lambda: (200, {})}) as port:
        with connected(port, http_server._MOST_CONNECTIONS) as held:
            with connected(port, 3) as beyond:
                assert not any(map(is_open, beyond))
            for each in held:
                each.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            assert all(map(is_open, held))
        wait_until(lambda: is_answered(port), "a connection that has ended counts no longer")


def test_connection_that_sends_bytes_forever_is_closed(monkeypatch):
    monkeypatch.setattr(http_server, "_REQUEST_S", 0.1)
    with serving("127.0.0.1", 0, CollectorRegistry(), {"/livez": lambda: (200, {})}) as port:
        with connected(port, http_server._MOST_CONNECTIONS) as slow:
            for each in slow:
                each.settimeout(0.01)
            left = set(slow)
            while left:
                left = {each for each in left if is_sending(each)}
        monkeypatch.undo()
        wait_until(lambda: is_answered(port), "a connection that has ended counts no longer")


def is_sending(connection: socket.socket) -> bool:
    """Send one byte of a request without an end; return whether the port still reads."""
    try:
        connection.sendall(b"G")
        return is_open(connection)
    except TimeoutError:
        return True
    except ConnectionError:
        return False


def test_prometheus_gets_the_format_that_it_asks_for():
    with serving("127.0.0.1", 0, CollectorRegistry(), {}) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        assert get(url)[1].startswith("text/plain; version=")
        asked = "application/openmetrics-text; version=1.0.0"
        assert get(url, Accept=asked)[1].startswith("application/openmetrics-text")
