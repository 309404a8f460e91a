"""The errors that the worker itself gives to a job: timeouts, limits, faults of a provider."""

import logging
from typing import Final

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.jobs.watchdog import Expired

logger = logging.getLogger(__name__)

TIMEOUT_CODES: Final = {
    Expired.FIRST_CHUNK: ErrorCode.UPSTREAM_TIMEOUT,
    Expired.IDLE: ErrorCode.UPSTREAM_TIMEOUT,
    Expired.DEADLINE: ErrorCode.DEADLINE_EXCEEDED,
}
_TIMEOUT_MESSAGES: Final = {
    Expired.FIRST_CHUNK: "no chunk within first_chunk_timeout_s",
    Expired.IDLE: "nothing more from the upstream within idle_timeout_s",
    Expired.DEADLINE: "the job was not done within deadline_s",
}


def timed_out(expired: Expired) -> JobError:
    """Return the error of a timeout of an attempt."""
    return JobError(TIMEOUT_CODES[expired], _TIMEOUT_MESSAGES[expired], retryable=True)


def time_limit_passed() -> JobError:
    """Return the error of a job that exceeded a time limit of Celery."""
    message = "the worker's time limit has passed"
    return JobError(ErrorCode.DEADLINE_EXCEEDED, message, retryable=True)


def internal_error(error: Exception, job_id: str) -> JobError:
    """Log an exception that no provider should raise, and return the error of its job.

    Both name its type and not its text, which may hold a prompt or a secret.
    """
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    line = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    logger.error("job %s: %s in the provider, at %s", job_id, type(error).__name__, line)
    return JobError(ErrorCode.INTERNAL, f"the provider raised {type(error).__name__}")
