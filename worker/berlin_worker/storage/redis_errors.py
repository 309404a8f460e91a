"""Classify errors of redis-py: retry, or report what to correct."""

import ast
import contextlib
import re
import ssl
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from berlin_worker.storage import supported_servers

_LONGEST_CHAIN: Final = 10
_OF_CLUSTERS: Final = (ClusterCrossSlotError, MovedError)
_IN_PIPELINE: Final = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: (.*)", re.DOTALL)
_OF_UNKNOWN: Final = ", with args beginning with"
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})

E = TypeVar("E", bound=BaseException)


class PrimaryNotFound(RedisConnectionError):
    """No Sentinel names a reachable primary: it is down and none is promoted yet, or the name
    in the URL is wrong."""


def is_temporary(error: Exception) -> bool:
    """Return whether a retry may succeed: Redis is unreachable, starts up, or fails over."""
    if isinstance(error, AuthenticationError | AuthorizationError) or refusal(error):
        return False
    if isinstance(error, BusyLoadingError | ClusterDownError | ReadOnlyError | TryAgainError):
        return True
    if isinstance(error, ResponseError) and "NOREPLICAS" in str(error):
        return True  # min-replicas-to-write: it may be a former primary
    return not isinstance(error, ResponseError) and isinstance(error, RedisError | OSError)


def describe(where: str, error: BaseException) -> str:
    """Return one sentence on an error of the Redis at the address ``where``, without secrets."""
    if reason := refusal(error):
        return f"Redis at {where} {reason}"
    if isinstance(error, NoPermissionError):
        return f"Redis at {where} answers, but refuses this user a command ({reply_of(error)})"
    if isinstance(error, AuthenticationError):
        return f"Redis at {where} answers, but refuses the login ({error})"
    if isinstance(error, ResponseError) and not is_temporary(error):
        return f"Redis at {where} refuses a command ({reply_of(error)})"
    if isinstance(error, PrimaryNotFound):
        return f"Redis at {where} has no primary ({error})"
    detail = type(error).__name__
    if where.startswith("rediss:") and isinstance(error, TimeoutError | RedisTimeoutError):
        detail += "; a server that speaks no TLS at this port would not either"
    # redis-py names the node of a cluster that has failed: others may answer.
    node = getattr(getattr(error, "connection", None), "name", None)
    at = f"node {node} of Redis" if isinstance(node, str) else "Redis"
    return f"{at} at {where} does not answer ({detail})"


def reply_of(error: BaseException) -> str:
    """Return the server's reply as text (pure).

    redis-py puts the command before an error in a pipeline, and a server repeats an unknown
    command. A command may hold a part of a prompt, so it is cut off. The asyncio client then gives
    the reply as a tuple of arguments, the blocking one as it is.
    """
    text = str(error)
    if found := _IN_PIPELINE.match(text):
        text = found[1]
        try:
            if text.startswith("("):
                [text, *_] = ast.literal_eval(text)
        except (SyntaxError, TypeError, ValueError):
            text = ""
    return str(text).partition(_OF_UNKNOWN)[0] or type(error).__name__


def refusal(error: BaseException) -> str | None:
    """Return why a retry cannot succeed, to follow "Redis at <address>"; else ``None`` (pure).

    Covered are a cluster, a database that the server does not have, a certificate that is not
    trusted, and a server without TLS.
    """
    # An error in a script has the error code in its text only.
    if isinstance(error, _OF_CLUSTERS) or "CROSSSLOT" in str(error):
        return supported_servers.CLUSTER
    if isinstance(error, ResponseError) and "DB index" in str(error):
        return "does not have this database: correct its number in the URL"
    if (cause := _cause(error, ssl.SSLCertVerificationError)) is not None:
        # OpenSSL's text holds no secret: the reason, and the host name of the URL.
        return f"has a certificate that is not trusted: {cause.verify_message or cause.reason}"
    tls = _cause(error, ssl.SSLError)
    if getattr(tls, "reason", None) in _NO_TLS:
        return "does not speak TLS: write redis:// instead of rediss://"
    return None


def is_wrong_type(reply: object) -> bool:
    """Return whether a key has another type than its readers expect (pure).

    Any client may have written it. For a command that only reads, its value counts as missing.
    """
    return isinstance(reply, ResponseError) and reply_of(reply).startswith("WRONGTYPE")


@contextlib.contextmanager
def wrong_type_is_missing() -> Iterator[None]:
    """Suppress the error of a key of another type."""
    try:
        yield
    except ResponseError as error:
        if not is_wrong_type(error):
            raise


def values(replies: Iterable[Any]) -> list[Any]:
    """Return the replies of a pipeline, ``None`` for a key of another type.

    Raises the first other error (pure).
    """
    found = [None if is_wrong_type(reply) else reply for reply in replies]
    for reply in found:
        if isinstance(reply, Exception):
            raise reply
    return found


def _cause(error: BaseException | None, kind: type[E]) -> E | None:
    """Return the first error of ``kind`` in the chain of causes of ``error``, or ``None``."""
    for _ in range(_LONGEST_CHAIN):
        if error is None or isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


class _Unreachable(contextlib.AbstractContextManager[None]):
    """Raise ``ConnectionError`` for any error of redis-py, error replies included."""

    # A class costs less than a generator, and each claim needs one.
    __slots__ = ()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RedisError | OSError):
            raise ConnectionError(f"Redis: {error}") from error


_UNREACHABLE: Final = _Unreachable()


def unreachable() -> _Unreachable:
    """Return the context in which any error of redis-py is a ``ConnectionError``."""
    return _UNREACHABLE
