"""The upstream token of one process without Redis."""

import asyncio
import uuid
import weakref
from dataclasses import dataclass, field

from berlin_worker.errors import JobError
from berlin_worker.providers.base import Login, Token


@dataclass(slots=True)
class _Account:
    """The state that the sources of one account share."""

    token: Token | None = None
    failure: JobError | None = None
    logins_ended: int = 0
    locks: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]" = field(
        default_factory=weakref.WeakKeyDictionary
    )

    def lock(self) -> asyncio.Lock:
        """Return the lock of the running loop: an ``asyncio.Lock`` serves one loop only."""
        return self.locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


class LocalTokens:
    """A ``TokenStore`` for one process: tokens stay in memory until they are refused.

    It may be used from one event loop after another. Callers in one loop share
    a login and its failure. No back-off delays a login: the caller decides when to
    try again.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], _Account] = {}

    def source(
        self,
        provider: str,
        account: str,
        login: Login,
        *,
        password: str = "",  # noqa: ARG002  # the protocol's: without back-off no failure is stored
    ) -> "LocalSource":
        """Return a source for one account. Sources of an account share its token, not its login."""
        shared = self._accounts.setdefault((provider, account), _Account())
        return LocalSource(shared, login)


class LocalSource:
    """The token of one account in one process.

    A login runs in the task of the caller that needs the token: the HTTP session may belong to that
    caller and close with it. If the caller is cancelled, the next caller that waits logs in.
    """

    def __init__(self, shared: _Account, login: Login) -> None:
        self._shared = shared
        self._login = login

    async def get(self) -> Token:
        """Return the token in use, after a login if there is none; raises what the login raises."""
        shared = self._shared
        seen = shared.logins_ended
        if shared.token is not None:
            return shared.token
        async with shared.lock():
            if shared.token is not None:
                return shared.token
            if shared.failure is not None and shared.logins_ended > seen:
                raise _copy(shared.failure)  # of the login that this caller has waited for
            return await self._log_in()

    async def _log_in(self) -> Token:
        shared = self._shared
        try:
            token = Token(value=await self._login(), gen=uuid.uuid4().hex)
        except JobError as error:
            # A copy: a kept exception would hold the frames of its traceback.
            shared.failure = _copy(error)
            shared.logins_ended += 1
            raise
        shared.token, shared.failure = token, None
        shared.logins_ended += 1
        return token

    async def invalidate(self, token: Token) -> None:
        """Forget ``token``, unless a newer one has taken its place already."""
        current = self._shared.token
        if current is not None and current.gen == token.gen:
            self._shared.token = None


def _copy(error: JobError) -> JobError:
    """Return an equal error: one exception raised in many tasks would mix their tracebacks."""
    return JobError(
        error.code,
        error.message,
        retryable=error.retryable,
        upstream_status=error.upstream_status,
        retry_after_s=error.retry_after_s,
    )
