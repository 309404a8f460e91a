"""Redis connections of a client: bounded waits, and no retries but those that the callers make.

redis-py's own retries would repeat a command whose reply was lost without saying so.
"""

import ast
import re
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from berlin_worker.storage import supported_servers

TIMEOUT_S: Final = 5.0
_CONNECTIONS: Final = 8
_POOL_TIMEOUT_S: Final = 30.0
_LONGEST_CHAIN: Final = 10
_OF_CLUSTERS: Final = (ClusterError, ClusterCrossSlotError, MovedError)
_IN_PIPELINE: Final = re.compile(
    r"Command # \d+ \(.*\) of pipeline caused error: (\(.*\))", re.DOTALL
)
_OF_UNKNOWN: Final = ", with args beginning with"
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})

E = TypeVar("E", bound=BaseException)

Command = tuple[Any, ...]
"""Name and arguments of a Redis command: ``str``, ``bytes`` or ``int``."""


class _Pool(BlockingConnectionPool):
    """Closed for good: a connection that is in use, or being made, is closed by giving it back.

    redis-py's would take it away from who uses it, by whatever error that then meets, and keep
    one that is being made, since there is nothing to disconnect yet.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._closed = False

    async def release(self, connection: AbstractConnection) -> None:
        await super().release(connection)
        if self._closed:
            await connection.disconnect(nowait=True)

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: ARG002
        self._closed = True
        await super().disconnect(inuse_connections=False)


def commands(url: str) -> Redis:
    """For commands: a few connections, shared by all who ask."""
    pool = _Pool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_POOL_TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        **_common(url),
    )
    return Redis.from_pool(pool)


def readers(url: str) -> Callable[[], AbstractConnection]:
    """Makes connections for readers, on which silence is no error.

    Raises ``ValueError`` or ``TypeError`` for a URL of which none can be made.
    """
    pool = ConnectionPool.from_url(url, socket_timeout=None, **_common(url))
    make: Callable[[], AbstractConnection] = pool.make_connection
    make()
    return make


async def ask(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """The replies to ``commands``, sent together: as they come, errors in their place."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.response_callbacks = {}
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))


def passes(error: Exception) -> bool:
    """Whether Redis may be back in a moment: it is away, starts up, or fails over."""
    if isinstance(error, AuthenticationError | AuthorizationError) or refusal(error):
        return False
    if isinstance(error, BusyLoadingError | ReadOnlyError | TryAgainError):
        return True
    return not isinstance(error, ResponseError) and isinstance(error, RedisError | OSError)


def trouble(where: str, error: BaseException) -> str:
    """What to say of an error of the Redis at ``where``: it is away, or it refuses."""
    if told := refusal(error):
        return f"Redis at {where} {told}"
    if isinstance(error, NoPermissionError):
        return f"Redis at {where} answers, but refuses this user a command ({reply_of(error)})"
    if isinstance(error, AuthenticationError):
        return f"Redis at {where} answers, but refuses the login ({error})"
    if isinstance(error, ResponseError) and not passes(error):
        return f"Redis at {where} refuses a command ({reply_of(error)})"
    told = type(error).__name__
    if where.startswith("rediss:") and isinstance(error, TimeoutError | RedisTimeoutError):
        told += "; a server that speaks no TLS at this port would not either"
    return f"Redis at {where} does not answer ({told})"


def reply_of(error: BaseException) -> str:
    """Return the server's reply as text (pure).

    redis-py puts the command in front of an error in a pipeline, and a server repeats an unknown
    command. Either may hold a piece of a prompt, so it is cut off.
    """
    text = str(error)
    if found := _IN_PIPELINE.match(text):
        try:
            [text, *_] = ast.literal_eval(found[1])
        except (SyntaxError, TypeError, ValueError):
            text = ""
    return str(text).partition(_OF_UNKNOWN)[0] or type(error).__name__


def refusal(error: BaseException) -> str | None:
    """What is wrong where waiting does not help; ``None`` for every other error (pure).

    That is: a cluster, a database that the server does not have, a certificate that is not
    trusted, a server that speaks no TLS.
    """
    # In a script the server's own word is a part of the text alone.
    if isinstance(error, _OF_CLUSTERS) or "CROSSSLOT" in str(error):
        return supported_servers.CLUSTER
    if isinstance(error, ResponseError) and "DB index" in str(error):
        return "does not have this database: correct its number in the URL"
    if (cause := _cause(error, ssl.SSLCertVerificationError)) is not None:
        # OpenSSL's sentence holds no secret: a reason, and the name that the URL has.
        return f"has a certificate that is not trusted: {cause.verify_message or cause.reason}"
    tls = _cause(error, ssl.SSLError)
    if getattr(tls, "reason", None) in _NO_TLS:
        return "does not speak TLS: write redis:// instead of rediss://"
    return None


def _cause(error: BaseException | None, kind: type[E]) -> E | None:
    """The error of ``kind`` that ``error`` was made of, if there is one."""
    for _ in range(_LONGEST_CHAIN):
        if error is None or isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


def keepalive(url: str) -> dict[str, Any]:
    """The option that shows a half-open connection; a Unix socket has none, and is never so."""
    return {} if url.startswith("unix:") else {"socket_keepalive": True}


def _common(url: str) -> dict[str, Any]:
    return {
        "socket_connect_timeout": TIMEOUT_S,
        **keepalive(url),
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
        # What wants RESP3 asks for it (berlin_worker.client.resp3).
        "protocol": 2,
    }
