"""Map the status of a reply to an error of the job. Pure."""

import email.utils
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError

AUTH_STATUSES: Final = frozenset({HTTPStatus.UNAUTHORIZED.value, HTTPStatus.FORBIDDEN.value})

_MAX_RETRY_AFTER_S: Final = 86400.0


def is_success(status: int) -> bool:
    """Return whether the status is one of 200 to 299."""
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def status_error(
    status: int,
    detail: str,
    retry_after: str | None,
    *,
    auth_statuses: frozenset[int] = AUTH_STATUSES,
    now: datetime | None = None,
) -> JobError:
    """Return the contract error for an HTTP status; ``detail`` is the part of the body to show."""
    code, retryable = _meaning(status, auth_statuses)
    wait_s = None
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        wait_s = retry_after_s(retry_after, now or datetime.now(UTC))
    return JobError(
        code,
        status_message(status, detail),
        retryable=retryable,
        upstream_status=status,
        retry_after_s=wait_s,
    )


def status_message(status: int, detail: str) -> str:
    """Return the message of an error status; ``detail`` as in :func:`status_error`."""
    message = f"the upstream answered {status}{_phrase(status)}"
    return f"{message}: {detail}" if detail else message


def _meaning(status: int, auth_statuses: frozenset[int]) -> tuple[ErrorCode, bool]:
    if status in auth_statuses:
        return ErrorCode.AUTH_FAILED, False
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ErrorCode.RATE_LIMITED, True
    return ErrorCode.UPSTREAM_ERROR, passes(status)


def passes(status: int) -> bool:
    """Return whether a request that was answered with ``status`` may succeed later."""
    return status in {408, 429} or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _phrase(status: int) -> str:
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return ", a redirect, and none is followed"
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def retry_after_s(value: str | None, now: datetime, *, unit_s: float = 1.0) -> float | None:
    """Return ``Retry-After`` (RFC 9110, 10.2.3: seconds or a date) in seconds, at most a day.

    ``unit_s``: the seconds of one unit, for headers with a number of another unit.
    """
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,99}(\.[0-9]{1,99})?", text := value.strip()):
        return min(float(text) * unit_s, _MAX_RETRY_AFTER_S)
    try:
        when = email.utils.parsedate_to_datetime(text)
        wait_s = (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait_s, 0.0), _MAX_RETRY_AFTER_S)
