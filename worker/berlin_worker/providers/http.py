"""The edge to aiohttp: the session, and the one mapping from its errors to contract errors.

No message repeats the text of a foreign exception: it may hold the address of a
proxy with its password.
"""

import errno
import ssl
from typing import Final, NamedTuple

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.body import Body, read_at_most
from berlin_worker.providers.response import BrokenResponse, Response
from berlin_worker.providers.status import AUTH_STATUSES, passes, status_error
from berlin_worker.settings import Settings


def open_session(
    settings: Settings, *, read_timeout_s: float | None = None
) -> aiohttp.ClientSession:
    """Return a session for many streams at once; the caller closes it.

    Nothing of the environment (proxies, ``.netrc``) and no cookie changes a request.
    Only connecting has a timeout: a stream may be long and slow, and its reader enforces
    the deadlines. ``read_timeout_s`` limits the silence of the upstream if no reader does.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=None, connect=settings.connect_timeout_s, sock_read=read_timeout_s
        ),
        trust_env=False,
        response_class=Response,
    )


def proxy_problem(proxy: str) -> str | None:
    """Return why ``proxy`` cannot be used, or ``None``; not the URL: it may hold a password."""
    try:
        scheme, host = URL(proxy).scheme, URL(proxy).host
    except ValueError:
        return "the proxy is no URL"
    if scheme not in {"http", "https"} or not host:
        return "the proxy is no URL of the form http://host:port"
    return None


def check_proxy(proxy: str | None) -> None:
    """Raise ``JobError(INVALID_JOB)`` for the proxy of a job that cannot be used."""
    if proxy and (problem := proxy_problem(proxy)):
        raise JobError(ErrorCode.INVALID_JOB, problem)


def transport_error(error: Exception, *, auth_statuses: frozenset[int] = AUTH_STATUSES) -> JobError:
    """Return the contract error for any error of a call of aiohttp; a ``JobError`` is returned.

    ``auth_statuses`` counts if the upstream has sent a status before its response broke.
    """
    if isinstance(error, JobError):
        return error
    if isinstance(error, BrokenResponse):
        status, retry_after = error.head
        return status_error(status, "", retry_after, auth_statuses=auth_statuses)
    row = next(row for row in _TRANSPORT_ERRORS if isinstance(error, row.kinds))
    retryable = row.retryable
    cause = type(error).__name__
    if isinstance(error, OSError) and (name := errno.errorcode.get(error.errno or 0)):
        cause += f", {name}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        cause += f", status {error.status}"
        retryable = passes(error.status)
    return JobError(row.code, f"{row.message} ({cause})", retryable=retryable)


def broken_off(body: Body, error: Exception) -> tuple[bytes, JobError]:
    """Return the bytes that arrived before the error of a read, and the error that follows them."""
    return body.drain_buffer(), transport_error(error)


async def read_whole(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the first ``limit`` bytes of a body; raises ``JobError``."""
    try:
        return await read_at_most(response, limit)
    except Exception as error:  # noqa: BLE001  # the edge: nothing but contract errors goes up
        raise transport_error(error) from None


class _Mapping(NamedTuple):
    kinds: tuple[type[Exception], ...]
    message: str
    code: ErrorCode = ErrorCode.UPSTREAM_ERROR
    retryable: bool = True


# The first match counts, so the narrower class comes first. A fault that another attempt
# cannot mend (a certificate, an address) is not retryable.
_TRANSPORT_ERRORS: Final = (
    _Mapping(
        (
            aiohttp.ClientConnectorCertificateError,
            aiohttp.ServerFingerprintMismatch,
            ssl.SSLCertVerificationError,
        ),
        "the certificate of the upstream is not trusted",
        retryable=False,
    ),
    _Mapping(
        (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.RedirectClientError),
        "the address of the upstream or of the proxy cannot be used",
        retryable=False,
    ),
    _Mapping(
        (aiohttp.ConnectionTimeoutError,),
        "connecting to the upstream took too long",
        ErrorCode.UPSTREAM_TIMEOUT,
    ),
    _Mapping(
        (TimeoutError,),
        "the upstream was silent for too long",
        ErrorCode.UPSTREAM_TIMEOUT,
    ),
    _Mapping(
        (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError),
        "no connection through the proxy to the upstream",
    ),
    _Mapping((aiohttp.ClientConnectorDNSError,), "the host name of the upstream does not resolve"),
    _Mapping((aiohttp.ClientSSLError, ssl.SSLError), "no TLS connection to the upstream"),
    _Mapping((aiohttp.ClientConnectorError,), "no connection to the upstream"),
    _Mapping(
        (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, EOFError),
        "the connection to the upstream broke",
    ),
    _Mapping(
        (aiohttp.ClientResponseError, HttpProcessingError), "the upstream broke the rules of HTTP"
    ),
    _Mapping((Exception,), "the call to the upstream failed"),
)
