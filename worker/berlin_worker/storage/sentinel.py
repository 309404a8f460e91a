"""Find the primary that Sentinels watch, and connect to it anew after a failover.

redis-py's managed connections do the rest: each one asks for the primary before it connects, and a
connection whose server refuses writes, as a former primary does, is closed.
"""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry

from berlin_worker.config.broker_url import SENTINEL_TIMEOUT_S, tls_options
from berlin_worker.config.redis_url import RedisURL
from berlin_worker.storage.redis_errors import PrimaryNotFound

Address = tuple[str, int]
"""Host and port."""

_NO_RETRY: Final = 0


def address_in(masters: Mapping[str, Mapping[str, Any]], primary: str) -> Address | None:
    """Return where ``primary`` is by a reply to SENTINEL MASTERS; ``None`` while it is down."""
    state = masters.get(primary)
    if not state or not state["is_master"] or state["is_sdown"] or state["is_odown"]:
        return None
    return str(state["ip"]), int(state["port"])


def not_found(primary: str, asked: int, errors: Sequence[Exception]) -> RedisError:
    """Return the error to raise if none of the Sentinels has named ``primary``."""
    refused = [e for e in errors if isinstance(e, AuthenticationError | NoPermissionError)]
    if refused and len(errors) == asked:
        return AuthenticationError(
            f"of the Sentinels: {refused[0]}; correct sentinel_username and sentinel_password"
        )
    silent = f"; {len(errors)} of them do not answer" if errors else ""
    return PrimaryNotFound(f"none of {asked} Sentinels names a primary {primary!r}{silent}")


class Discovery:
    """Asks the Sentinels of a URL in turn, first the one that answered last time."""

    def __init__(self, url: RedisURL) -> None:
        self._primary = url.primary
        self._sentinels = list(url.nodes)
        self._options: dict[str, Any] = {
            "socket_timeout": SENTINEL_TIMEOUT_S,
            "socket_connect_timeout": SENTINEL_TIMEOUT_S,
            "protocol": 2,
            **dict(url.sentinel_login),
            **({"ssl": True} if url.uses_tls else {}),
            **tls_options(url),
        }

    async def find(self) -> Address:
        """Return the address of the primary; at most 2 s for each Sentinel.

        Raises :class:`PrimaryNotFound`, or ``AuthenticationError`` if the Sentinels refuse us.
        """
        errors: list[Exception] = []
        for host, port in tuple(self._sentinels):
            retry = AsyncRetry(NoBackoff(), _NO_RETRY)
            # For one call each: an idle connection could be half open at the next failover.
            async with redis.asyncio.Redis(
                host=host, port=port, retry=retry, **self._options
            ) as sentinel:
                try:
                    masters: Any = await sentinel.sentinel_masters()
                except (RedisError, OSError) as error:
                    errors.append(error)
                    continue
            if found := address_in(masters, self._primary):
                self._prefer((host, port))
                return found
        raise not_found(self._primary, len(self._sentinels), errors) from _last(errors)

    def find_blocking(self) -> Address:
        """:meth:`find` without an event loop."""
        errors: list[Exception] = []
        for host, port in tuple(self._sentinels):
            retry = Retry(NoBackoff(), _NO_RETRY)
            with redis.Redis(host=host, port=port, retry=retry, **self._options) as sentinel:
                try:
                    masters: Any = sentinel.sentinel_masters()
                except (RedisError, OSError) as error:
                    errors.append(error)
                    continue
            if found := address_in(masters, self._primary):
                self._prefer((host, port))
                return found
        raise not_found(self._primary, len(self._sentinels), errors) from _last(errors)

    def _prefer(self, sentinel: Address) -> None:
        self._sentinels.remove(sentinel)
        self._sentinels.insert(0, sentinel)


class PrimaryPool(redis.asyncio.ConnectionPool):
    """Mixin for pools of asyncio connections: with ``discovery`` they lead to the primary."""

    is_master = True
    check_connection = False

    def __init__(self, *, discovery: Discovery | None = None, **options: Any) -> None:
        if discovery is not None:
            secure = options.pop("connection_class", None) is redis.asyncio.SSLConnection
            options["connection_class"] = (
                redis.asyncio.sentinel.SentinelManagedSSLConnection
                if secure
                else redis.asyncio.sentinel.SentinelManagedConnection
            )
            options["connection_pool"] = weakref.proxy(self)
        super().__init__(**options)
        self._discovery = discovery
        self._primary: Address | None = None

    async def get_master_address(self) -> Address:
        """Return where to connect: hook of redis-py's managed connections."""
        assert self._discovery is not None  # for mypy: without it no connection asks
        found = await self._discovery.find()
        if self._primary not in {None, found}:
            # What is idle leads to the former primary, which may be cut off and not dead.
            for connection in tuple(self._available_connections):
                await connection.disconnect(nowait=True)
        self._primary = found
        return found


class BlockingPrimaryPool(redis.ConnectionPool):
    """A pool of blocking connections that lead to the primary."""

    is_master = True
    check_connection = False
    service_name = "primary"

    def __init__(self, *, discovery: Discovery, **options: Any) -> None:
        secure = options.pop("connection_class", None) is redis.SSLConnection
        managed: Any = (
            redis.sentinel.SentinelManagedSSLConnection
            if secure
            else redis.sentinel.SentinelManagedConnection
        )
        super().__init__(managed, connection_pool=weakref.proxy(self), **options)
        self._discovery = discovery

    def get_master_address(self) -> Address:
        """Return where to connect: hook of redis-py's managed connections."""
        return self._discovery.find_blocking()


def _last(errors: Iterable[Exception]) -> Exception | None:
    """Return the error to name as the cause, for it may say that waiting does not help."""
    return next(reversed([*errors]), None)
