"""Every foreign error becomes an error of the contract, once."""

import asyncio
import errno
import inspect
import socket
import ssl
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import aiohttp
import aiohttp.client_exceptions
import aiohttp.http_exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.http import (
    open_session,
    proxy_problem,
    transport_error,
)
from berlin_worker.providers.status import retry_after_s, status_error
from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit

SECRET = "proxy-password"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def aiohttp_exceptions() -> list[type[Exception]]:
    modules = (aiohttp, aiohttp.client_exceptions, aiohttp.http_exceptions)
    found = {
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Exception) and not issubclass(kind, Warning)
    }
    return sorted(found, key=lambda kind: kind.__name__)


def build(kind: type[Exception]) -> Exception:
    """Return an instance whose text holds a secret. The signatures of the classes differ."""
    request: Any = SimpleNamespace(real_url=f"http://u:{SECRET}@proxy")
    key: Any = SimpleNamespace(host=f"u:{SECRET}@proxy", port=1, ssl=True, is_ssl=True)
    attempts: list[tuple[Any, ...]] = [
        (SECRET,),
        (key, OSError(errno.ECONNREFUSED, SECRET)),
        (SECRET, key, OSError(errno.ECONNREFUSED, SECRET)),
        (b"a", b"b", SECRET, 1),
        (1002, SECRET),
        (request, ()),
        (),
    ]
    for arguments in attempts:
        try:
            error = kind(*arguments)
            str(error)
        except (TypeError, ValueError, AttributeError):
            continue
        return error
    raise AssertionError(f"no idea how to make a {kind.__name__}")


@pytest.mark.parametrize("kind", aiohttp_exceptions(), ids=lambda kind: kind.__name__)
def test_every_exception_of_aiohttp_is_mapped_without_its_text(kind: type[Exception]) -> None:
    error = transport_error(build(kind))
    assert isinstance(error, JobError)
    assert error.code in {ErrorCode.UPSTREAM_ERROR, ErrorCode.UPSTREAM_TIMEOUT}
    assert SECRET not in error.message
    assert kind.__name__ in error.message


def test_exceptions_of_aiohttp_are_found() -> None:
    assert len(aiohttp_exceptions()) > 40


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ECONNRESET, SECRET),
        ConnectionResetError(SECRET),
        socket.gaierror(-2, SECRET),
        ssl.SSLError(1, SECRET),
        zlib.error(SECRET),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, SECRET),
        asyncio.IncompleteReadError(b"", 1),
        ValueError(SECRET),
        RuntimeError(SECRET),
        TypeError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_exceptions_are_upstream_errors_that_may_pass(error: Exception) -> None:
    mapped = transport_error(error)
    assert (mapped.code, mapped.retryable) == (ErrorCode.UPSTREAM_ERROR, True)
    assert SECRET not in mapped.message


@pytest.mark.parametrize(
    "kind", [TimeoutError, aiohttp.SocketTimeoutError, aiohttp.ConnectionTimeoutError]
)
def test_timeouts_are_upstream_timeouts(kind: type[Exception]) -> None:
    mapped = transport_error(kind())
    assert (mapped.code, mapped.retryable) == (ErrorCode.UPSTREAM_TIMEOUT, True)


@pytest.mark.parametrize(
    "error",
    [aiohttp.InvalidURL("x"), aiohttp.NonHttpUrlClientError("x"), ssl.SSLCertVerificationError()],
)
def test_permanent_error_is_not_retryable(error: Exception) -> None:
    assert not transport_error(error).retryable


@pytest.mark.parametrize(("status", "retryable"), [(407, False), (403, False), (502, True)])
def test_answer_of_a_proxy_is_reported_as_the_proxys(status: int, retryable: bool) -> None:
    request: Any = SimpleNamespace(real_url="")
    mapped = transport_error(aiohttp.ClientHttpProxyError(request, (), status=status))
    assert mapped.retryable is retryable
    assert mapped.upstream_status is None
    assert str(status) in mapped.message


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (204 - 100, ErrorCode.UPSTREAM_ERROR, False),
        (302, ErrorCode.UPSTREAM_ERROR, False),
        (400, ErrorCode.UPSTREAM_ERROR, False),
        (401, ErrorCode.AUTH_FAILED, False),
        (403, ErrorCode.AUTH_FAILED, False),
        (404, ErrorCode.UPSTREAM_ERROR, False),
        (408, ErrorCode.UPSTREAM_ERROR, True),
        (418, ErrorCode.UPSTREAM_ERROR, False),
        (429, ErrorCode.RATE_LIMITED, True),
        (499, ErrorCode.UPSTREAM_ERROR, False),
        (500, ErrorCode.UPSTREAM_ERROR, True),
        (503, ErrorCode.UPSTREAM_ERROR, True),
        (599, ErrorCode.UPSTREAM_ERROR, True),
    ],
)
def test_each_status_has_its_meaning(status: int, code: ErrorCode, retryable: bool) -> None:
    error = status_error(status, "because", "7")
    assert (error.code, error.retryable, error.upstream_status) == (code, retryable, status)
    assert str(status) in error.message
    assert error.message.endswith("because")
    assert error.retry_after_s == (7.0 if status in {429, 503} else None)


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (None, None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("1.5", 1.5),
        ("999999999", 86400.0),
        ("9" * 5000, None),
        ("-5", None),
        ("nan", None),
        ("٣", None),
        ("", None),
        ("soon", None),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime(NOW - timedelta(days=30), usegmt=True), 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400.0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 86400.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_a_day(
    value: str | None, wait_s: float | None
) -> None:
    assert retry_after_s(value, NOW) == wait_s


@given(st.text())
def test_no_retry_after_breaks_the_mapping(value: str) -> None:
    wait_s = retry_after_s(value, NOW)
    assert wait_s is None or 0 <= wait_s <= 86400


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "https://u:p@proxy.example"])
def test_http_proxies_can_be_used(proxy: str) -> None:
    assert proxy_problem(proxy) is None


@pytest.mark.parametrize(
    "proxy", ["socks5://h:1", "proxy.example:80", "http://", "http://[", "x", "http://xn--a"]
)
def test_other_proxies_are_refused_without_repeating_them(proxy: str) -> None:
    problem = proxy_problem(f"{proxy}#{SECRET}")
    assert problem is not None
    assert SECRET not in problem


async def test_session_ignores_the_environment_and_has_no_stream_timeout() -> None:
    async with open_session(Settings.from_env({"WORKER_CONNECT_TIMEOUT_S": "3"})) as session:
        assert not session.trust_env
        assert session.timeout == aiohttp.ClientTimeout(total=None, connect=3.0, sock_read=None)
        assert session.connector is not None
        assert session.connector.limit == 0
        assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
