"""The error codes of the contract and the error object of a ``failed`` event."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema


class ErrorCode(StrEnum):
    """Why a job failed. An open set: a later version may add codes."""

    INVALID_JOB = "invalid_job"
    AUTH_FAILED = "auth_failed"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    BAD_CHUNK = "bad_chunk"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERRUPTED = "interrupted"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    INTERNAL = "internal"


_CODES = frozenset(ErrorCode)


def _known(code: object) -> object:
    """Return ``code``, or ``internal`` for a code of a later version."""
    return ErrorCode.INTERNAL if isinstance(code, str) and code not in _CODES else code


Code = Annotated[
    ErrorCode,
    BeforeValidator(_known),
    WithJsonSchema(
        {
            "type": "string",
            "examples": sorted(ErrorCode),
            "description": "An open set: an unknown code counts as internal.",
        }
    ),
]


class ErrorInfo(BaseModel):
    """The cause of a ``failed`` event. An unknown code becomes ``internal``.

    ``retryable``: the job may succeed if it is submitted again later.
    ``upstream_status``: the HTTP status of the upstream, if it sent one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    code: Code
    message: str
    retryable: bool
    upstream_status: int | None = None
