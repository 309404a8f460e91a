"""Follow the primary that Sentinels watch: one thread asks for it, and ends connections elsewhere.

Sentinels demote a former primary only seconds after they have promoted another server. A client
that stays connected to it meanwhile writes what will be lost. So a thread of each process asks all
Sentinels twice a second, and ends every connection that does not lead to the primary. The newest
answer counts (``config-epoch``): a Sentinel that is cut off, or has just started, may name a former
primary.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry

from berlin_worker.config.broker_url import tls_options
from berlin_worker.config.redis_url import RedisURL
from berlin_worker.storage.redis_errors import PrimaryNotFound

logger = logging.getLogger(__name__)

Address = tuple[str, int]
"""Host and port."""

_TIMEOUT_S: Final = 1.0
_ASK_EVERY_S: Final = 0.5
_SKIP_S: Final = 10.0
"""A Sentinel that has not answered is skipped for this time, unless no other names the primary."""
_SETTLE_S: Final = 2.0
"""A busy process may write to the former primary for at most this long after a change."""
_IDLE_ROUNDS: Final = 10
"""The thread ends after this many rounds without a connection."""


class Follower(Protocol):
    """A connection to the primary."""

    host: str
    port: int

    def leave(self) -> None:
        """End the connection; any thread may call it."""


def newest(replies: Iterable[Mapping[str, Mapping[str, Any]]], primary: str) -> Address | None:
    """Return where ``primary`` is by replies to SENTINEL MASTERS; ``None`` while it is down."""
    states = [state for masters in replies if (state := masters.get(primary))]
    latest = max((int(state.get("config-epoch", 0)) for state in states), default=0)
    for state in states:
        down = not state["is_master"] or state["is_sdown"] or state["is_odown"]
        if int(state.get("config-epoch", 0)) == latest and not down:
            return str(state["ip"]), int(state["port"])
    return None


def not_found(primary: str, asked: int, errors: Sequence[Exception]) -> RedisError:
    """Return the error to raise if none of the Sentinels has named ``primary``."""
    refused = [e for e in errors if isinstance(e, AuthenticationError | NoPermissionError)]
    if refused and len(errors) == asked:
        return AuthenticationError(
            f"of the Sentinels: {refused[0]}; correct sentinel_username and sentinel_password"
        )
    silent = f"; {len(errors)} of them do not answer" if errors else ""
    found = PrimaryNotFound(f"none of {asked} Sentinels names a primary {primary!r}{silent}")
    # The cause may say that waiting does not help.
    found.__cause__ = errors[-1] if errors else None
    return found


def sentinel_options(url: RedisURL) -> dict[str, Any]:
    """Return redis-py's options for a connection to a Sentinel of ``url``."""
    return {
        "socket_timeout": _TIMEOUT_S,
        "socket_connect_timeout": _TIMEOUT_S,
        "protocol": 2,
        **dict(url.sentinel_login),
        **({"ssl": True} if url.uses_tls else {}),
        **tls_options(url),
    }


class PrimaryWatch:
    """The place of the primary of one URL, for all connections of this process."""

    def __init__(self, url: RedisURL) -> None:
        self._name = url.primary
        self._nodes = url.nodes
        self._options = sentinel_options(url)
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._waiting: list[Future[Address]] = []
        self._followers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._running = False
        self._primary: Address | None = None
        self.settled_at = 0.0
        """When (``monotonic()``) this process certainly writes to the present primary alone."""

    def find_blocking(self) -> Address:
        """Return where the primary is now.

        Raises :class:`PrimaryNotFound`, or ``AuthenticationError`` if the Sentinels refuse us.
        """
        return self._ask().result()

    async def find(self) -> Address:
        """:meth:`find_blocking` for an event loop."""
        return await asyncio.wrap_future(self._ask())

    def follow(self, connection: Follower) -> None:
        """End ``connection`` once another server is the primary."""
        with self._lock:
            self._followers.add(connection)

    def _ask(self) -> Future[Address]:
        asked: Future[Address] = Future()
        with self._lock:
            if not self._running:
                threading.Thread(target=self._run, name="sentinel-watch", daemon=True).start()
                self._running = True
            self._waiting.append(asked)
        self._asked.set()
        return asked

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as error:
            with self._lock:  # the next call of `_ask` starts another thread
                self._running = False
                waiting, self._waiting = self._waiting, []
            _fail(waiting, error)
            logger.exception("the watch of the Sentinels has ended; it begins again when needed")

    def _watch(self) -> None:
        idle = 0
        with contextlib.ExitStack() as stack:
            sentinels = [
                _Sentinel(stack.enter_context(self._client(host, port)))
                for host, port in self._nodes
            ]
            while True:
                self._round(sentinels)
                with self._lock:
                    idle = 0 if self._waiting or self._followers else idle + 1
                    if idle > _IDLE_ROUNDS:
                        self._running = False
                        return
                self._asked.wait(_ASK_EVERY_S)
                self._asked.clear()

    def _client(self, host: str, port: int) -> redis.Redis:
        return redis.Redis(host=host, port=port, retry=Retry(NoBackoff(), 0), **self._options)

    def _round(self, sentinels: Sequence["_Sentinel"]) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        try:
            found = self._find(sentinels, is_awaited=bool(waiting))
        except Exception as error:  # noqa: BLE001  # whatever a broken Sentinel has replied
            _fail(waiting, error)
            return
        self._note(found)
        for asked in waiting:
            if asked.set_running_or_notify_cancel():
                asked.set_result(found)
        with self._lock:
            elsewhere = [c for c in self._followers if (c.host, c.port) != found]
        for connection in elsewhere:
            try:
                connection.leave()
            except Exception:
                logger.exception("a connection to a former primary cannot be ended")

    def _find(self, sentinels: Sequence["_Sentinel"], *, is_awaited: bool) -> Address:
        now = time.monotonic()
        skipped = [sentinel for sentinel in sentinels if sentinel.skip_until > now]
        replies, errors = _replies(s for s in sentinels if s not in skipped)
        found = newest(replies, self._name)
        if found is None and is_awaited:
            more, others = _replies(skipped)
            found, errors = newest([*replies, *more], self._name), [*errors, *others]
        if found is None:
            raise not_found(self._name, len(sentinels), errors)
        return found

    def _note(self, primary: Address) -> None:
        if self._primary not in (None, primary):
            self.settled_at = time.monotonic() + _SETTLE_S
        self._primary = primary


def _fail(waiting: Iterable[Future[Address]], error: BaseException) -> None:
    """Let each call that waits raise ``error``, as an error of redis-py."""
    for asked in waiting:
        if not asked.set_running_or_notify_cancel():
            continue
        raised = error
        if not isinstance(error, RedisError):
            raised = PrimaryNotFound(f"the Sentinels cannot be asked: {error!r}")
            raised.__cause__ = error
        asked.set_exception(raised)


class _Sentinel:
    """One Sentinel and its connection; used by one thread."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.skip_until = 0.0


def _replies(
    sentinels: Iterable[_Sentinel],
) -> tuple[list[Mapping[str, Mapping[str, Any]]], list[Exception]]:
    replies: list[Mapping[str, Mapping[str, Any]]] = []
    errors: list[Exception] = []
    for sentinel in sentinels:
        try:
            masters: Any = sentinel.client.sentinel_masters()
        except Exception as error:  # noqa: BLE001  # whatever a broken Sentinel causes
            sentinel.skip_until = time.monotonic() + _SKIP_S
            errors.append(error)
        else:
            sentinel.skip_until = 0.0
            replies.append(masters)
    return replies, errors


_watches: dict[tuple[int, RedisURL], PrimaryWatch] = {}


def watch_of(url: RedisURL) -> PrimaryWatch:
    """Return the watch of a URL in this process; a fork has its own."""
    return _watches.setdefault((os.getpid(), url), PrimaryWatch(url))
