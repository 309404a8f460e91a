"""Decide the next step about the shared token, from its state in Redis. Pure.

The rules, in this order:

1. A token that can be read and was not refused here: use it.
2. A failed login, its back-off not over: fail as that login did, without a call upstream.
3. The lock is ours: log in. (1 and 2 come first: this is the re-check inside the lock.)
4. The lock is free: take it, then look again.
5. Another worker holds the lock: wait, look again. A dead holder's lock expires.
"""

import hashlib
from collections.abc import Container
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from pydantic import ValidationError

from berlin_schemas import ErrorCode, ErrorInfo
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Token

BACKOFF_BASE_S = 0.5
FRESH_S = 1.0
"""A token that is refused within this time after its login counts as refused while fresh."""
FREE_REFUSALS = 20
"""How many fresh tokens in a row may be refused before the next login has to wait."""
REFUSALS_BACKOFF_MAX_S = 5.0
POLL_MIN_S = 0.02
POLL_MAX_S = 0.25


class Lock(Enum):
    """The holder of the login lock."""

    FREE = "free"
    OURS = "ours"
    OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed login, raised to every caller until ``retry_in_s`` is over.

    ``count``: failures in a row, this one included. Both are 0 if Redis failed
    instead of the login: nothing is counted then, and no worker logs in.
    """

    info: ErrorInfo
    retry_in_s: float = 0.0
    count: int = 0

    def error(self) -> JobError:
        """Return a new error for one caller."""
        return JobError(
            self.info.code,
            self.info.message,
            retryable=self.info.retryable,
            upstream_status=self.info.upstream_status,
            retry_after_s=self.retry_in_s or None,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state in Redis at one moment. ``token_ttl_s``: how long ``token`` may still be used."""

    lock: Lock
    token: Token | None = None
    token_ttl_s: float = 0.0
    failure: Failure | None = None

    @property
    def failures(self) -> int:
        """Failed logins in a row."""
        return self.failure.count if self.failure else 0


class Step(Enum):
    """The next step if there is neither a token nor a failure to raise."""

    LOG_IN = auto()
    TAKE_LOCK = auto()
    WAIT = auto()


def decide(seen: Snapshot, refused: Container[str] = ()) -> Token | Failure | Step:
    """Return the token to use, the failure to raise, or the next step, by the rules of this module.

    ``refused``: generations that the upstream has refused to this process.
    """
    if seen.token is not None and seen.token.gen not in refused:
        return seen.token
    if seen.failure is not None and seen.failure.retry_in_s > 0:
        return seen.failure
    match seen.lock:
        case Lock.OURS:
            return Step.LOG_IN
        case Lock.FREE:
            return Step.TAKE_LOCK
        case Lock.OTHERS:
            return Step.WAIT


def backoff_s(count: int, *, max_s: float, jitter: float, retry_after_s: float | None) -> float:
    """Return for how many seconds no worker logs in after ``count`` failures in a row.

    ``BACKOFF_BASE_S`` doubled each time, at most ``max_s``; of it one half is fixed
    and one half is random (``jitter``, 0 to 1). A ``Retry-After`` of the upstream
    that is longer counts instead, up to ``max_s`` as well.
    """
    # Past 2**30 any back-off is at its maximum; a larger power overflows a float.
    full_s = min(max_s, BACKOFF_BASE_S * 2.0 ** min(max(count, 1) - 1, 30))
    return min(max_s, max(full_s * (1 + jitter) / 2, retry_after_s or 0.0))


REFUSED_WHILE_FRESH = ErrorInfo(
    code=ErrorCode.AUTH_FAILED,
    message="the upstream gives out tokens and refuses them at once",
    retryable=True,
)


def refusal_pauses_s(*, max_s: float) -> list[float]:
    """Return the seconds without a login after 1, 2, ... fresh tokens in a row were refused.

    Each of these logins succeeds, so no failure is counted. Without pauses, logins would flood
    the upstream if the account may log in but send no prompt, or if two parties log each other
    out in turn. The pauses are short: a token that other calls have used looks like one that was
    never valid.
    """
    max_s = min(max_s, REFUSALS_BACKOFF_MAX_S)
    pauses = [0.0] * FREE_REFUSALS
    while pauses[-1] < max_s:
        count = len(pauses) - FREE_REFUSALS + 1
        pauses.append(backoff_s(count, max_s=max_s, jitter=1.0, retry_after_s=None))
    return pauses


def poll_s(polls: int) -> float:
    """Return the seconds until the next poll, after ``polls`` polls of another worker's lock."""
    return min(POLL_MAX_S, POLL_MIN_S * 1.5 ** min(polls, 30))


def parse_error(text: str) -> ErrorInfo:
    """Parse the stored error of a failed login, which any version may have written."""
    try:
        return ErrorInfo.model_validate_json(text)
    except ValidationError:
        return ErrorInfo(code=ErrorCode.UPSTREAM_ERROR, message="the login failed", retryable=True)


@lru_cache(maxsize=64)  # one computation for all sources of an account, which has one a proxy
def fingerprint(provider: str, account: str, password: str) -> str:
    """Return a digest of the password of an account, 16 hex digits.

    It is a part of a Redis key, so it is slow to compute (scrypt, about 50 ms) and
    short: a reader of the key cannot try passwords against it in bulk.
    """
    salt = f"{provider}\0{account}".encode()
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1, dklen=8).hex()
