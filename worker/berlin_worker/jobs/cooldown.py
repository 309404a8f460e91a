"""Models that an upstream has refused with 429, and that no worker calls for a while (pure)."""

from collections.abc import Sequence
from typing import Final, Protocol

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError

LONGEST_S: Final = 3600.0
"""The longest cooldown: a server that asks for a day would stop a model for that long."""
_TOO_MANY_REQUESTS: Final = 429


class Cooldowns(Protocol):
    """The models that cool down, of the whole fleet.

    No call raises: without Redis no model cools down.
    """

    async def remaining_s(self, provider: str, model: str) -> float:
        """Return for how long (s) no worker should call the model; 0 if it may."""

    async def begin(self, provider: str, model: str, cooldown_s: float) -> None:
        """Let the model cool down for that long (s), or for longer if it does already."""


class NoCooldowns:
    """No model ever cools down."""

    async def remaining_s(self, provider: str, model: str) -> float:  # noqa: ARG002  # the protocol's
        """Return 0."""
        return 0.0

    async def begin(self, provider: str, model: str, cooldown_s: float) -> None:
        """Do nothing."""


def cooldown_s(error: JobError) -> float:
    """Return for how long (s) a model cools down after ``error``; 0 if it does not."""
    if error.code is not ErrorCode.RATE_LIMITED or error.upstream_status != _TOO_MANY_REQUESTS:
        return 0.0
    asked_s = error.retry_after_s or 0.0
    return min(asked_s, LONGEST_S) if asked_s > 0 else 0.0


def choose(waits_s: Sequence[float]) -> int:
    """Return the place of the candidate to try: the first free one, or the next to be free."""
    return min(range(len(waits_s)), key=lambda place: max(waits_s[place], 0.0))


def still_cooling(wait_s: float) -> JobError:
    """Return the error of a job whose deadline comes before its model may be called."""
    message = "the upstream has refused the model with 429, and its Retry-After outlasts deadline_s"
    return JobError(
        ErrorCode.RATE_LIMITED,
        message,
        retryable=True,
        upstream_status=_TOO_MANY_REQUESTS,
        retry_after_s=wait_s,
    )
