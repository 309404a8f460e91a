"""Keys and scripts of upstream tokens in Redis: encode calls and parse replies, no decisions."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from berlin_schemas import ErrorCode, ErrorInfo, names
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Token
from berlin_worker.providers.tokens.encryption import TokenCipher
from berlin_worker.providers.tokens.policy import Failure, Lock, Snapshot, parse_error
from berlin_worker.storage import scripts

REDIS_TIMEOUT_S = 5.0
"""A call that takes longer has failed, the retries of redis-py included."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCRIPTS = {
    name: scripts.source(name)
    for name in ("token_look", "token_store", "token_fail", "token_release", "token_drop")
}


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The keys of one account; their braces keep them in one cluster slot."""

    token: str
    lock: str
    failure: str
    refusals: str

    @classmethod
    def of(cls, provider: str, account: str, fingerprint: str) -> Self:
        """Return the keys; ``fingerprint`` separates failed logins of different passwords."""
        token = names.token_key(provider, account)
        beside = f"token:{{{token}}}"
        return cls(token, f"{beside}:lock", f"{beside}:failed:{fingerprint}", f"{beside}:refusals")


class TokenScripts:
    """The scripts for one account. Each call raises ``JobError(INTERNAL)`` if Redis fails.

    redis-py may send a script twice, if a reply was lost. A cancelled call raises
    ``CancelledError`` only after Redis has answered.
    """

    def __init__(self, redis: Redis, keys: TokenKeys, cipher: TokenCipher) -> None:
        self._keys = keys
        self._cipher = cipher
        self._redis = redis

    async def look(self, *, take_as: str = "", lock_ttl_s: float = 0.0) -> Snapshot:
        """Return the state; with ``take_as``, take the lock for that owner first if it is free."""
        keys = [self._keys.token, self._keys.lock, self._keys.failure]
        args: list[str | int] = [self._cipher.field, take_as, _ms(lock_ttl_s)]
        gen, stored, ttl_ms, lock, failures, retry_in_ms, error = await self._call(
            "token_look", keys, args
        )
        value = self._cipher.decrypt(_text(stored)) if gen and ttl_ms else None
        if value is not None and _CONTROL.search(value):
            value = None  # no upstream issued it, since no header can carry it
        return Snapshot(
            lock=Lock(_text(lock)),
            token=Token(value, _text(gen)) if value else None,
            token_ttl_s=ttl_ms / 1000,
            failure=Failure(parse_error(_text(error)), retry_in_ms / 1000, failures)
            if failures
            else None,
        )

    async def store(self, owner: str, token: Token, *, ttl_s: int) -> bool:
        """Share ``token`` and free the lock. If ``owner`` has lost it, only return false."""
        keys = [self._keys.token, self._keys.lock, self._keys.failure]
        stored = self._cipher.encrypt(token.value)
        args: list[str | int] = [owner, token.gen, self._cipher.field, stored, ttl_s]
        return bool(await self._call("token_store", keys, args))

    async def fail(self, owner: str, failure: Failure, *, remember_s: float) -> bool:
        """Share ``failure`` and free the lock. If ``owner`` has lost it, only return false."""
        args: list[str | int] = [
            owner,
            failure.count,
            _ms(failure.retry_in_s),
            failure.info.model_dump_json(),
            _ms(remember_s),
        ]
        return bool(await self._call("token_fail", [self._keys.lock, self._keys.failure], args))

    async def release(self, owner: str) -> None:
        """Free the lock if ``owner`` still holds it."""
        await self._call("token_release", [self._keys.lock], [owner])

    async def drop(
        self, gen: str, *, fresh_s: float, error: ErrorInfo, pauses_s: list[float]
    ) -> float:
        """Delete the token if its generation is ``gen``; return the pause that begins, s, or 0.

        ``pauses_s`` are the pauses after 1, 2, ... consecutive tokens that were refused within
        ``fresh_s`` of their login; callers get ``error`` during a pause.
        """
        keys = [self._keys.token, self._keys.failure, self._keys.refusals]
        args: list[str | int] = [gen, _ms(fresh_s), error.model_dump_json()]
        args += [_ms(pause_s) for pause_s in pauses_s]
        pause_ms: int = await self._call("token_drop", keys, args)
        return pause_ms / 1000

    async def _call(self, name: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        # On a cancellation redis-py closes the connection, but the server may still run the
        # script, after the release that follows: the lock would stay taken. So wait for the reply.
        call = asyncio.create_task(self._eval(name, keys, args))
        try:
            await asyncio.wait({call})
        except asyncio.CancelledError:
            await asyncio.wait({call})
            if not call.cancelled():
                call.exception()  # no caller is left to get the error
            raise
        return call.result()

    async def _eval(self, name: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                # EVAL, not EVALSHA: calls are rare, and a restarted server, or a new primary,
                # needs no second round trip to load the script.
                reply: Any = self._redis.eval(_SCRIPTS[name], len(keys), *keys, *args)
                return await reply
        except (RedisError, TimeoutError, OSError) as error:
            # Not chained: an error reply may repeat its command, with a token in it.
            raise JobError(
                ErrorCode.INTERNAL,
                f"the upstream token cannot be shared: Redis fails ({type(error).__name__})",
                retryable=True,
            ) from None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _text(reply: bytes | str) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else reply
