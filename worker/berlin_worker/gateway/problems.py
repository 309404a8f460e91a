"""Errors as HTTP responses, in the shape that OpenAI's clients read (pure).

The body is ``{"error": {"message", "type", "param", "code"}}``. ``code`` is the contract's error
code or one of the gateway's own.
"""

import json
from typing import Any, Final

from berlin_schemas import ErrorCode, InvalidJob
from berlin_worker.errors import (
    ClientError,
    CursorExpired,
    JobIdReused,
    SettingsError,
    Unavailable,
)

STATUS_OF_CODE: Final[dict[str, int]] = {
    ErrorCode.INVALID_JOB: 400,
    "context_length_exceeded": 400,
    ErrorCode.RATE_LIMITED: 429,
    "quota_exceeded": 429,
    ErrorCode.AUTH_FAILED: 502,
    ErrorCode.UPSTREAM_ERROR: 502,
    ErrorCode.BAD_CHUNK: 502,
    ErrorCode.INTERRUPTED: 503,
    ErrorCode.UPSTREAM_TIMEOUT: 504,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.TOO_MANY_ATTEMPTS: 500,
    ErrorCode.INTERNAL: 500,
    "cancelled": 400,
}
"""HTTP status by error code; a code that is not known counts as ``internal``."""

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_OPENAI_CODES: Final = {"quota_exceeded": "insufficient_quota"}


class Problem(Exception):
    """A request that ends with an error; ``status`` is the HTTP status."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def as_object(self) -> dict[str, Any]:
        """Return the value of ``error``."""
        return {
            "message": self.message,
            "type": _TYPES.get(self.status, "server_error"),
            "param": self.param,
            "code": _OPENAI_CODES.get(self.code, self.code),
        }

    def as_json(self) -> bytes:
        """Return the body of the response."""
        return json.dumps({"error": self.as_object()}).encode() + b"\n"


def of_terminal(event: dict[str, Any]) -> Problem:
    """Return the problem that a ``failed`` or ``cancelled`` event describes."""
    if event.get("type") == "cancelled":
        return Problem(400, "cancelled", f"the job was cancelled: {event.get('reason', '')}")
    error: Any = event.get("error")
    error = error if isinstance(error, dict) else {}
    code = str(error.get("code", ErrorCode.INTERNAL))
    return Problem(STATUS_OF_CODE.get(code, 500), code, str(error.get("message", "")))


def of_client(error: ClientError | InvalidJob | SettingsError) -> Problem:
    """Return the problem that an error of the client describes."""
    match error:
        case InvalidJob():
            return Problem(400, ErrorCode.INVALID_JOB, str(error))
        case JobIdReused():
            message = "the Idempotency-Key or job ID belongs to another request: send a new one"
            return Problem(422, "idempotency_key_reused", message)
        case CursorExpired():
            return Problem(410, "cursor_expired", str(error))
        case Unavailable() | SettingsError():
            return Problem(503, "unavailable", "the queue does not answer: try again later")
    return Problem(500, ErrorCode.INTERNAL, str(error))


def invalid(param: str, message: str) -> Problem:
    """Return the problem of a field or query parameter that cannot be used."""
    return Problem(400, "invalid_request", f"{param}: {message}", param=param)
