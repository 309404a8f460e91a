"""Redis connections that run scripts: one for the journal, one for all other calls of jobs.

redis-py's client costs about 100 µs of CPU for a command of its own, three times what
sending it and reading its reply does (measured: 4 events in a call, 37 µs against 10 µs
an event). Connecting, TLS, authentication and parsing stay redis-py's.
"""

import abc
import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import hiredis
import redis.asyncio
from redis.exceptions import AskError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from berlin_worker.storage.batcher import Batcher
from berlin_worker.storage.connections import is_stale
from berlin_worker.storage.scripts import sha1
from berlin_worker.telemetry.store_nodes import Observer

_TIMEOUT_S: Final = 5.0
_AT_ONCE: Final = 100
"""Calls sent together: they keep the server busy for about a millisecond."""
_ASKING: Final = hiredis.pack_command(("ASKING",))
_OF_SLOTS: Final = (AskError, TryAgainError)
"""Replies of a cluster's node about a slot (MOVED is one of ASK's kind): the scripts are there."""


class Call(NamedTuple):
    """One call of a script, by its text."""

    script: str
    keys: Sequence[str]
    args: Iterable[Any]


Groups = Sequence[Sequence[Call]]
Outcomes = list[list[Any] | Exception]
"""The replies to each group, or its first error."""


class ScriptCalls(abc.ABC):
    """Calls of scripts by their text, over :meth:`run`."""

    async def call(self, script: str, keys: Sequence[str], args: Iterable[Any]) -> Any:
        """Return the reply to one call; raises redis-py's errors."""
        (reply,) = await self.replies([Call(script, keys, args)])
        return reply

    async def replies(self, calls: Sequence[Call]) -> list[Any]:
        """Return the replies to ``calls``, sent together; raises the first error among them."""
        replies = await self.run(calls)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    @abc.abstractmethod
    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Return the replies to ``calls``; a reply may be a ``ResponseError``."""


class ScriptConnection(ScriptCalls):
    """Run ``scripts`` over one connection of ``pool``; one :meth:`run` at a time."""

    def __init__(
        self, pool: redis.asyncio.ConnectionPool, *scripts: str, observer: Observer = None
    ) -> None:
        self._pool: Any = pool  # redis-py's own methods are not all typed
        self._observer = observer
        self._connection: Any = None
        self._shas = {script: sha1(script) for script in scripts}

    async def run(self, calls: Sequence[Call], *, asking: bool = False) -> list[Any]:
        """Return the replies to ``calls``, sent together; a reply may be a ``ResponseError``.

        ``asking``: the node of a cluster imports the slot of each call, so ASKING precedes it.

        Raises redis-py's errors if the connection fails. After any error the next run connects
        anew, so that no reply of a cancelled run reaches the next one.
        """
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                connection = self._connection or await self._take()
                await self._ready(connection)
                commands = self._packed(calls)
                if asking:
                    commands = [_ASKING + command for command in commands]
                await connection.send_packed_command(commands, check_health=False)
                replies = [await _reply(connection) for _ in range(len(calls) << asking)]
                if asking:
                    replies = replies[1::2]
        except BaseException as error:
            if self._observer is not None and isinstance(error, Exception):
                self._observer.failed(_node_of(self._connection), error)
            await self._disconnect()
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError(f"no reply within {_TIMEOUT_S} s") from None
            raise
        errors = [reply for reply in replies if isinstance(reply, ResponseError)]
        if errors and not all(isinstance(error, _OF_SLOTS) for error in errors):
            await self._disconnect()  # the scripts are gone, or the server is a replica now
        return replies

    def _packed(self, calls: Sequence[Call]) -> list[bytes]:
        return [
            hiredis.pack_command(("EVALSHA", self._shas[script], len(keys), *keys, *args))
            for script, keys, args in calls
        ]

    async def _take(self) -> Any:
        # Never released; the pool closes it.
        self._connection = await self._pool.get_connection()
        self._connection.socket_timeout = None  # the whole run has one timeout
        await self._connection.disconnect(nowait=True)
        return self._connection

    async def _ready(self, connection: Any) -> None:
        if is_stale(connection):
            await connection.disconnect(nowait=True)
        if not connection.is_connected:
            await connection.connect()
            if self._observer is not None:
                self._observer.connected(_node_of(connection))
            # A restarted server has no scripts: every new connection loads them.
            for script in self._shas:
                await connection.send_command("SCRIPT", "LOAD", script)
                await connection.read_response()

    async def aclose(self) -> None:
        """Disconnect; a later run would connect again."""
        await self._disconnect()

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)


class Runner(Protocol):
    """A runner of scripts: a connection to one server, or those to the nodes of a cluster."""

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Return the replies to ``calls``; see :meth:`ScriptConnection.run`."""
        ...


class SharedScriptConnection:
    """Run scripts for many callers; calls of the same moment are sent together.

    A call may run twice, if its reply was lost.
    """

    def __init__(self, connection: Runner) -> None:
        self._connection = connection
        self._batcher = self._new_batcher(self._run)

    async def call(self, script: str, keys: Sequence[str], args: Iterable[Any]) -> Any:
        """Return the reply; raises redis-py's errors. Redis may still run a cancelled call."""
        (reply,) = await self.run([Call(script, keys, args)])
        return reply

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Return the replies to ``calls``, sent in this order, together if they fit.

        Raises the first error of redis-py among the replies, or that of the connection.
        """
        if not calls:
            return []
        return await self._batcher.ask(calls)

    def node_of(self, key: str) -> str:  # noqa: ARG002  # only a cluster needs the key
        """Return the name of the only server, which is empty."""
        return ""

    def _new_batcher(
        self, work: Callable[[Groups], Awaitable[Outcomes]]
    ) -> Batcher[Sequence[Call], list[Any]]:
        # A batch without callers is cancelled: the pool may be closed next.
        return Batcher(work, at_most=_AT_ONCE, cancel_unwanted=True)

    async def _run(self, groups: Groups) -> Outcomes:
        calls = flat(groups)
        try:
            replies = await self._connection.run(calls)
        except RedisConnectionError:
            # The connection was closed meanwhile. A script that did run finds its own result.
            replies = await self._connection.run(calls)
        return outcomes_of(groups, replies)


def flat(groups: Groups) -> list[Call]:
    """Return the calls of ``groups`` in their order (pure)."""
    return [call for group in groups for call in group]


def outcomes_of(groups: Groups, replies: Sequence[Any]) -> Outcomes:
    """Return for each group its part of ``replies``, or the first error in it (pure)."""
    if len(replies) == len(groups):  # one call each: that of a job
        return [reply if isinstance(reply, Exception) else [reply] for reply in replies]
    outcomes: Outcomes = []
    at = 0
    for group in groups:
        part = replies[at : at + len(group)]
        at += len(group)
        outcomes.append(next((r for r in part if isinstance(r, Exception)), None) or list(part))
    return outcomes


def _node_of(connection: Any) -> str:
    """Return ``host:port``, or the path of a socket; nothing for a connection that was not made."""
    if (host := getattr(connection, "host", None)) is not None:
        return f"{host}:{connection.port}"
    return str(getattr(connection, "path", ""))


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
