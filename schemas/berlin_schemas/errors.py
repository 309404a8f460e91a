"""The error codes of the contract and the error object of a ``failed`` event."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class ErrorCode(StrEnum):
    """Why a job failed. Closed in version 1 of the contract."""

    INVALID_JOB = "invalid_job"
    AUTH_FAILED = "auth_failed"
    RATE_LIMITED = "rate_limited"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    BAD_CHUNK = "bad_chunk"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERRUPTED = "interrupted"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    INTERNAL = "internal"


class ErrorInfo(BaseModel):
    """What a ``failed`` event says of its cause.

    ``retryable`` tells the producer whether the same job may succeed later;
    ``upstream_status`` is the HTTP status of the upstream, where there was one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    code: ErrorCode
    message: str
    retryable: bool
    upstream_status: int | None = None
