"""What Celery takes from a message and then drops, where no reader hears of it. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import isfinite
from typing import Any, Final

from celery.exceptions import InvalidTaskError
from celery.utils.time import timezone
from kombu.asynchronous.timer import to_timestamp

from berlin_schemas.names import is_job_id

_FOLLOW_UPS: Final = ("callbacks", "errbacks", "chain", "chord")


class InvalidMessage(InvalidTaskError):  # type: ignore[misc]  # celery has no type information
    """A message that cannot run: ``reason`` is for the dead letters, the text for its reader."""

    def __init__(self, reason: str, told: str) -> None:
        super().__init__(told)
        self.reason = reason


def check(headers: Mapping[str, Any], payload: Sequence[Any], eta: datetime | None) -> None:
    """Raise :class:`InvalidMessage` unless Celery can bring this message to its task.

    ``payload`` is what protocol 2 has in its body: positional arguments, keyword arguments, and
    what is to follow, for which Celery looks in the headers, too. A follow-up would let whoever
    may enqueue a job write to any key, by the name of its queue, with the rights of the worker.
    """
    if not is_job_id(headers.get("id")):
        raise InvalidMessage("invalid_job_id", "the task ID is no job ID")
    args, kwargs, follow_ups = payload
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise InvalidMessage("not_a_task", "arguments: a list and an object are needed")
    if follow_ups and not isinstance(follow_ups, dict):
        raise InvalidMessage("not_a_task", "what follows the arguments is no object")
    if any(map(headers.get, _FOLLOW_UPS)) or any(map((follow_ups or {}).get, _FOLLOW_UPS)):
        told = "link, link_error, chain and chord are not run: follow the job by its channel"
        raise InvalidMessage("follow_up", told)
    if not _are_limits(headers.get("timelimit")):
        raise InvalidMessage("not_a_task", "timelimit: two numbers of seconds are needed, or nulls")
    if not _are_stamps(headers.get("stamped_headers"), headers.get("stamps")):
        raise InvalidMessage(
            "not_a_task", "stamped_headers, stamps: names and an object are needed"
        )
    if eta is not None and not _can_be_waited_for(eta):
        raise InvalidMessage("not_a_task", "eta: beyond what a clock can tell")


def _are_limits(limits: Any) -> bool:
    if not limits:
        return True
    is_pair = isinstance(limits, list | tuple) and len(limits) == 2  # noqa: PLR2004
    return is_pair and all(
        each is None or (isinstance(each, int | float) and isfinite(each) and each >= 0)
        for each in limits
    )


def _are_stamps(stamped: Any, stamps: Any) -> bool:
    """Whether Celery can look up in them whether the task has been revoked by one."""
    if not stamped:
        return True
    names = isinstance(stamped, list) and all(isinstance(name, str) for name in stamped)
    return names and isinstance(stamps, dict | None)


def _can_be_waited_for(eta: datetime) -> bool:
    try:
        to_timestamp(timezone.to_system(eta))  # type: ignore[no-untyped-call]  # kombu has few
    except (OverflowError, ValueError):
        return False
    return True
