"""Upstream tokens in Redis, shared by all workers of a fleet: one login serves all.

:mod:`berlin_worker.providers.tokens.policy` decides what to do in each state.
"""

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Login, Token
from berlin_worker.providers.tokens.encryption import cipher_for
from berlin_worker.providers.tokens.policy import (
    FRESH_S,
    REFUSED_WHILE_FRESH,
    Failure,
    Step,
    backoff_s,
    decide,
    fingerprint,
    poll_s,
    refusal_pauses_s,
)
from berlin_worker.providers.tokens.singleflight import SingleFlight
from berlin_worker.telemetry.stats import Stats

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from berlin_worker.settings import Settings
    from berlin_worker.storage.token_scripts import TokenScripts

logger = logging.getLogger(__name__)

LOCK_MARGIN_S = 3.0
"""By how much the lock outlives the login timeout: time to store the token."""
REMEMBER_BACKOFFS = 10
"""Failures count as consecutive if at most this many longest back-offs lie between them."""


class RedisTokens:
    """A ``TokenStore`` for a fleet: one login per expiry, for all workers and jobs.

    Use it in the event loop of ``redis`` only. Raises ``SettingsError`` if the keys for the
    encryption of tokens are invalid.
    """

    def __init__(self, redis: "Redis", settings: "Settings", stats: Stats | None = None) -> None:
        self._redis = redis
        self._settings = settings
        self._stats = stats or Stats()
        self._sources: list[RedisSource] = []
        self._cipher = cipher_for(settings.token_keys)

    def source(
        self, provider: str, account: str, login: Login, *, password: str = ""
    ) -> "RedisSource":
        """Return the source for one account, which holds the token; make one for each process."""
        # redis-py takes half a second to import.
        from berlin_worker.storage.token_scripts import TokenKeys, TokenScripts  # noqa: PLC0415

        keys = TokenKeys.of(provider, account, fingerprint(provider, account, password))
        scripts = TokenScripts(self._redis, keys, self._cipher)
        made = RedisSource(scripts, login, self._settings, provider, self._stats)
        self._sources.append(made)
        return made

    async def problem(self) -> str | None:
        """Return why no token exists and no login can succeed soon, or ``None``.

        Reads the state and does not log in. The text names provider and error code only.
        """
        for source in self._sources:
            if found := await source.problem():
                return found
        return None


class RedisSource:
    """The token of one account, shared by all processes that use one Redis.

    While the token is valid, :meth:`get` sends nothing. If another process has replaced the token,
    the upstream answers 401 here: ``invalidate`` then deletes nothing, and ``get`` finds the newer
    token in Redis.
    """

    def __init__(
        self,
        scripts: "TokenScripts",
        login: Login,
        settings: "Settings",
        provider: str,
        stats: Stats | None = None,
    ) -> None:
        self._scripts = scripts
        self._login = login
        self._settings = settings
        self._lock_ttl_s = settings.login_timeout_s + LOCK_MARGIN_S
        self._provider = provider
        self._stats = stats or Stats()
        self._token: Token | None = None
        self._use_until = 0.0
        # A few are enough: a stored token replaces an older one in Redis for good.
        self._refused: deque[str] = deque(maxlen=8)
        self._to_drop: set[str] = set()
        # Hundreds of jobs call at once, or get one 401: Redis receives one command.
        self._obtain_once = SingleFlight(self._obtain)
        self._drop_once = SingleFlight(self._drop)

    async def get(self) -> Token:
        """Return the token: the one in use, another worker's, or that of a new login.

        Raises ``JobError``: during a back-off that of the failed login, with the remaining time
        as ``retry_after_s``; ``internal`` if Redis fails.
        """
        while True:
            if self._token is not None and _now() < self._use_until:
                return self._token
            outcome = await self._obtain_once()
            if isinstance(outcome, Failure):
                raise outcome.error()
            # A search that began before a 401 may still return the refused token.
            if outcome.gen not in self._refused:
                return outcome

    async def invalidate(self, token: Token) -> None:
        """Drop ``token`` here and in Redis, unless a newer one has replaced it.

        Raises ``JobError(INTERNAL)`` if Redis fails; even then this process
        does not use the token again.
        """
        if token.gen not in self._refused:
            self._refused.append(token.gen)
            self._to_drop.add(token.gen)
        if self._token is not None and self._token.gen == token.gen:
            self._token = None
        if self._to_drop and (failure := await self._drop_once()):
            raise failure.error()

    async def problem(self) -> str | None:
        """Return why :meth:`get` would most likely fail, or ``None``.

        A login is expected to succeed after its back-off, unless its failure is permanent.
        """
        if self._token is not None and _now() < self._use_until:
            return None
        try:
            seen = await self._scripts.look()
        except JobError as error:
            return f"{self._provider}: {error.code.value}"
        found = decide(seen, self._refused)
        if isinstance(found, Token):
            return None
        failure = found if isinstance(found, Failure) else seen.failure
        if failure is None or (failure is not found and failure.info.retryable):
            return None
        return f"{self._provider}: {failure.info.code.value}"

    async def _drop(self) -> Failure | None:
        """Drop all refused tokens, those that are added meanwhile included; runs once at a time."""
        pauses_s = refusal_pauses_s(max_s=self._settings.login_backoff_max_s)
        while self._to_drop:
            gen = next(iter(self._to_drop))
            try:
                pause_s = await self._scripts.drop(
                    gen, fresh_s=FRESH_S, error=REFUSED_WHILE_FRESH, pauses_s=pauses_s
                )
            except JobError as error:
                return Failure(error.info())
            self._to_drop.discard(gen)
            if pause_s:
                text = "%s refuses tokens that it has just given out: no login for %.1f s"
                logger.warning(text, self._provider, pause_s)
        return None

    async def _obtain(self) -> Token | Failure:
        """Obtain a token for all callers; an error is a value, since each caller raises its own."""
        try:
            return await self._pursue(owner=uuid.uuid4().hex)
        except JobError as error:
            return Failure(error.info())

    async def _pursue(self, owner: str) -> Token | Failure:
        """Read the state, wait and log in until a token or a failure is found."""
        may_hold_lock, take_as, polls = False, "", 0
        try:
            while True:
                asked_at = _now()
                seen = await self._scripts.look(take_as=take_as, lock_ttl_s=self._lock_ttl_s)
                take_as = ""
                match decide(seen, self._refused):
                    case Token() as token:
                        return self._keep(token, until=asked_at + seen.token_ttl_s)
                    case Failure() as failure:
                        return failure
                    case Step.TAKE_LOCK:
                        take_as, may_hold_lock = owner, True
                    case Step.LOG_IN:
                        outcome = await self._log_in(owner, seen.failures, lock_taken_at=asked_at)
                        may_hold_lock = False
                        if outcome is not None:
                            return outcome
                    case Step.WAIT:
                        await asyncio.sleep(poll_s(polls))
                        polls += 1
        finally:
            if may_hold_lock:
                with contextlib.suppress(JobError):  # the lock expires by itself
                    await self._scripts.release(owner)

    async def _log_in(
        self, owner: str, failures: int, *, lock_taken_at: float
    ) -> Token | Failure | None:
        """Log in, share the result and free the lock; return ``None`` if the lock was lost."""
        try:
            # The time counts from before the lock was taken: a login never outlives its lock.
            value = await self._call_login(lock_taken_at + self._settings.login_timeout_s)
            self._stats.logins.add(self._provider, "")
        except JobError as error:
            self._stats.logins.add(self._provider, error.code.value)
            return await self._share_failure(owner, error, failures + 1)
        token, stored_at = Token(value, gen=uuid.uuid4().hex), _now()
        if not await self._scripts.store(owner, token, ttl_s=self._settings.token_ttl_s):
            logger.warning("login at %s outlived its lock: its token is dropped", self._provider)
            return None
        logger.info("logged in at %s", self._provider)
        return self._keep(token, until=stored_at + self._settings.token_ttl_s)

    async def _call_login(self, give_up_at: float) -> str:
        """Return the upstream's token; any failure but a cancellation raises ``JobError``."""
        try:
            async with asyncio.timeout_at(give_up_at):
                value = await self._login()
        except JobError:
            raise
        except TimeoutError:
            raise JobError(
                ErrorCode.UPSTREAM_TIMEOUT, "the login took too long", retryable=True
            ) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _login_broke("CancelledError") from None  # no caller cancelled
        except Exception as error:  # noqa: BLE001  # a provider's bug must back off as well
            raise _login_broke(type(error).__name__) from None  # its text may hold a secret
        if not value:
            raise JobError(ErrorCode.UPSTREAM_ERROR, "the login gave no token", retryable=True)
        return value

    async def _share_failure(self, owner: str, error: JobError, count: int) -> Failure | None:
        """Share a failed login and return it; return ``None`` if the lock was lost."""
        max_s = self._settings.login_backoff_max_s
        pause_s = backoff_s(
            count,
            max_s=max_s,
            jitter=random.random(),  # noqa: S311  # spreads load; not a secret
            retry_after_s=error.retry_after_s,
        )
        failure = Failure(error.info(), retry_in_s=pause_s, count=count)
        logger.warning(
            "login at %s failed (%s), %d in a row: next one in %.1f s",
            self._provider,
            error.code.value,
            count,
            pause_s,
        )
        # Without Redis the callers here still get the failure; the lock stays and delays others.
        with contextlib.suppress(JobError):
            if not await self._scripts.fail(owner, failure, remember_s=max_s * REMEMBER_BACKOFFS):
                return None
        return failure

    def _keep(self, token: Token, *, until: float) -> Token:
        if token.gen not in self._refused:
            self._token, self._use_until = token, until
            age_s = self._settings.token_ttl_s - (until - _now())
            self._stats.token_issued[self._provider] = time.time() - age_s
        return token


def _now() -> float:
    return asyncio.get_running_loop().time()


def _login_broke(kind: str) -> JobError:
    return JobError(ErrorCode.INTERNAL, f"the login raised {kind}", retryable=True)
