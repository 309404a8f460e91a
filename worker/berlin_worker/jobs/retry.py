"""The decision after a failed attempt (pure)."""

from dataclasses import dataclass, replace
from typing import Final, Literal, Self

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError

_LONGEST_SPREAD_S: Final = 15.0

FINAL_CODES = frozenset(
    {ErrorCode.DEADLINE_EXCEEDED, ErrorCode.TOO_MANY_ATTEMPTS, ErrorCode.INVALID_JOB}
)
"""Codes after which no further attempt makes sense, even if the error is retryable."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``max_attempts`` counts the first; back-off is ``base_s * 2 ** (tries - 1)``, capped."""

    max_attempts: int
    base_s: float
    max_s: float

    def with_fallbacks(self, count: int) -> Self:
        """Return the policy of a job with ``count`` fallbacks: each has an attempt of its own."""
        return replace(self, max_attempts=self.max_attempts + count) if count else self

    def backoff_s(self, tries: int, jitter: float) -> float:
        """Return the delay (s) after ``tries`` attempts; ``jitter`` in [0, 1) spreads a half."""
        full = min(self.max_s, self.base_s * 2.0 ** min(tries - 1, 32))
        return full * (0.5 + 0.5 * jitter)


def spread_s(asked_s: float, *, remaining_s: float, jitter: float) -> float:
    """Return the wait (s) that an upstream has asked for, lengthened by a random part.

    Without that part, all jobs of the fleet that the upstream has refused would call it at one
    instant. The longest part is a quarter of the wait, but at least 1 s (or the whole wait, if that
    is shorter) and at most 15 s; ``jitter``, in [0, 1), is the share of it. No job misses its
    deadline, in ``remaining_s``, because of this part.
    """
    longest_s = min(asked_s, max(asked_s / 4, 1.0), _LONGEST_SPREAD_S, (remaining_s - asked_s) / 2)
    lengthened_s = asked_s + jitter * max(longest_s, 0.0)
    return lengthened_s if lengthened_s < remaining_s else asked_s


@dataclass(frozen=True, slots=True)
class Retry:
    """Wait for ``delay_s``, then begin the next attempt (with a reset if there are chunks)."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class KeepPartial:
    """End as completed with the text so far, ``finish_reason`` interrupted."""


@dataclass(frozen=True, slots=True)
class Fail:
    """End as failed with this error."""

    error: JobError


@dataclass(frozen=True, slots=True)
class FallBack:
    """Begin the next attempt at once, with the next fallback of the job."""


Decision = Retry | FallBack | KeepPartial | Fail


def decide_retry(
    error: JobError,
    *,
    tries: int,
    streaming: bool,
    on_interrupt: Literal["restart", "fail", "keep"],
    remaining_s: float,
    policy: RetryPolicy,
    jitter: float,
    has_fallback: bool = False,
) -> Decision:
    """Return the step after an attempt that ended with ``error``.

    - ``tries`` counts the attempts so far, without those that a shutdown released.
    - ``streaming``: chunks have been published since the last reset.
    - ``remaining_s``: the seconds to the job's deadline.
    - ``has_fallback``: the job names another provider or model after the one that failed.

    The delay is at least the upstream's ``Retry-After`` (:func:`spread_s`). If the deadline comes
    first, the job fails at once. A fallback is tried without a delay, and for errors that no retry
    would help.
    """
    may_follow = error.code not in FINAL_CODES and tries < policy.max_attempts and remaining_s > 0
    if has_fallback and not streaming and may_follow:
        return FallBack()
    if not error.retryable or error.code in FINAL_CODES:
        return Fail(error)
    if streaming and on_interrupt == "keep":
        return KeepPartial()
    if streaming and on_interrupt == "fail":
        return Fail(error)
    if tries >= policy.max_attempts:
        return Fail(error)
    asked_s = spread_s(error.retry_after_s or 0.0, remaining_s=remaining_s, jitter=jitter)
    delay_s = max(policy.backoff_s(tries, jitter), asked_s)
    if delay_s >= remaining_s:
        return Fail(error)
    return Retry(delay_s)
