"""The edge to aiohttp: the session, and the one mapping from its errors to contract errors.

No message repeats the text of a foreign exception: it may hold the address of a
proxy with its password.
"""

import asyncio
import contextvars
import email.utils
import errno
import re
import ssl
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, NamedTuple

import aiohttp
from aiohttp.compression_utils import HAS_BROTLI
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.settings import Settings

ACCEPT_ENCODING: Final = "gzip, deflate, br" if HAS_BROTLI else "gzip, deflate"
"""Only what can be decoded; ``br`` needs a Brotli package."""

AUTH_STATUSES: Final = frozenset({HTTPStatus.UNAUTHORIZED.value, HTTPStatus.FORBIDDEN.value})

ERROR_BODY_BYTES: Final = 4096
_ERROR_BODY_TIMEOUT_S: Final = 5.0
_MAX_RETRY_AFTER_S: Final = 86400.0


def open_session(
    settings: Settings, *, read_timeout_s: float | None = None
) -> aiohttp.ClientSession:
    """A session for many streams at once; whoever opens it closes it.

    Nothing of the environment (proxies, ``.netrc``) and no cookie changes a request.
    Only connecting has a timeout: a stream may be long and slow, and whoever reads it
    keeps its deadlines. ``read_timeout_s`` bounds the silence where nobody does.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=None, connect=settings.connect_timeout_s, sock_read=read_timeout_s
        ),
        trust_env=False,
        auto_decompress=True,
    )


def proxy_problem(proxy: str) -> str | None:
    """Why ``proxy`` cannot be used, or ``None``; never repeats it, it may hold a password."""
    try:
        url = URL(proxy)
    except ValueError:
        return "the proxy is no URL"
    if url.scheme not in {"http", "https"} or not url.host:
        return "the proxy is no URL of the form http://host:port"
    return None


def transport_error(error: Exception) -> JobError:
    """The contract error for whatever a call of aiohttp raises."""
    row = next(row for row in _TRANSPORT_ERRORS if isinstance(error, row.kinds))
    retryable = row.retryable
    cause = type(error).__name__
    if isinstance(error, OSError) and (name := errno.errorcode.get(error.errno or 0)):
        cause += f", {name}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        cause += f", status {error.status}"
        retryable = _passes(error.status)
    return JobError(row.code, f"{row.told} ({cause})", retryable=retryable)


class _Row(NamedTuple):
    kinds: tuple[type[Exception], ...]
    told: str
    code: ErrorCode = ErrorCode.UPSTREAM_ERROR
    retryable: bool = True


# The first row that fits counts, so the narrower class stands first. What no repetition
# heals (a certificate, an address) is not retryable.
_TRANSPORT_ERRORS: Final = (
    _Row(
        (
            aiohttp.ClientConnectorCertificateError,
            aiohttp.ServerFingerprintMismatch,
            ssl.SSLCertVerificationError,
        ),
        "the certificate of the upstream is not trusted",
        retryable=False,
    ),
    _Row(
        (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.RedirectClientError),
        "the address of the upstream or of the proxy cannot be used",
        retryable=False,
    ),
    _Row(
        (aiohttp.ConnectionTimeoutError,),
        "connecting to the upstream took too long",
        ErrorCode.UPSTREAM_TIMEOUT,
    ),
    _Row(
        (TimeoutError,),
        "the upstream was silent for too long",
        ErrorCode.UPSTREAM_TIMEOUT,
    ),
    _Row(
        (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError),
        "the proxy does not lead to the upstream",
    ),
    _Row((aiohttp.ClientConnectorDNSError,), "the host name of the upstream does not resolve"),
    _Row((aiohttp.ClientSSLError, ssl.SSLError), "no TLS connection to the upstream"),
    _Row((aiohttp.ClientConnectorError,), "no connection to the upstream"),
    _Row(
        (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, EOFError),
        "the connection to the upstream broke",
    ),
    _Row(
        (aiohttp.ClientResponseError, HttpProcessingError), "the upstream broke the rules of HTTP"
    ),
    _Row((Exception,), "the call to the upstream failed"),
)


def status_error(
    status: int,
    detail: str,
    retry_after: str | None,
    *,
    auth_statuses: frozenset[int] = AUTH_STATUSES,
    now: datetime | None = None,
) -> JobError:
    """The contract error for an HTTP status; ``detail`` is what may be shown of the body."""
    told = f"the upstream answered {status}{_phrase(status)}"
    if detail:
        told += f": {detail}"
    code, retryable = _meaning(status, auth_statuses)
    wait_s = None
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        wait_s = retry_after_s(retry_after, now or datetime.now(UTC))
    return JobError(code, told, retryable=retryable, upstream_status=status, retry_after_s=wait_s)


def _meaning(status: int, auth_statuses: frozenset[int]) -> tuple[ErrorCode, bool]:
    if status in auth_statuses:
        return ErrorCode.AUTH_FAILED, False
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ErrorCode.RATE_LIMITED, True
    return ErrorCode.UPSTREAM_ERROR, _passes(status)


def _passes(status: int) -> bool:
    return status in {408, 429} or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _phrase(status: int) -> str:
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return ", a redirect, and none is followed"
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """``Retry-After`` (RFC 9110, 10.2.3: seconds or a date) in seconds, at most a day."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text := value.strip()):
        return min(float(text), _MAX_RETRY_AFTER_S)
    try:
        when = email.utils.parsedate_to_datetime(text)
        wait_s = (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait_s, 0.0), _MAX_RETRY_AFTER_S)


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The first ``limit`` bytes of the body; raises what aiohttp raises."""
    body = bytearray()
    while len(body) < limit and (data := await response.content.readany()):
        body += data
    return bytes(body[:limit])


async def read_error_body(response: aiohttp.ClientResponse) -> str:
    """What there is of an error body, at most 4 KiB and 5 s of it."""
    body = bytearray()
    try:
        async with asyncio.timeout(_ERROR_BODY_TIMEOUT_S):
            body += await read_at_most(response, ERROR_BODY_BYTES)
    except Exception:  # noqa: BLE001, S110  # the status says enough: a broken body adds nothing
        pass
    return body.decode(errors="replace")


def unread(response: aiohttp.ClientResponse) -> bytes:
    """What arrived before the connection broke, which aiohttp's reader withholds then."""
    # Taking back the error is the only way to the buffer that aiohttp has in public.
    response.content.set_exception(None)  # type: ignore[arg-type]
    return response.content.read_nowait()


class ConnectionEnd:
    """Lets a read of a body fail once its connection is closed; :meth:`forget` it after the read.

    aiohttp 3.14 closes a connection on which the framing of a body is broken, and lets whoever
    reads that body wait for ever.
    """

    __slots__ = ("_closed", "_content")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._content = response.content
        protocol = response.connection.protocol if response.connection is not None else None
        # None where the whole body has come with the head.
        self._closed = protocol.closed if protocol is not None else None
        if self._closed is not None:
            self._closed.add_done_callback(self, context=_CONTEXT)

    def __call__(self, closed: asyncio.Future[None]) -> None:
        """The connection is closed."""
        _ask(closed)
        if not self._content.is_eof() and self._content.exception() is None:
            self._content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    def forget(self) -> None:
        """The connection may serve others from now on."""
        if self._closed is not None:
            self._closed.remove_done_callback(self)
            self._closed.remove_done_callback(_ask)
            self._closed.add_done_callback(_ask, context=_CONTEXT)


_CONTEXT: Final = contextvars.Context()
"""One for all: each would have a copy of its own otherwise, for as long as the stream lasts."""


def _ask(closed: asyncio.Future[None]) -> None:
    # Else asyncio complains of an error that nobody asks for.
    if not closed.cancelled():
        closed.exception()
