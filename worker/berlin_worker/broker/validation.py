"""Validate a message. Pure.

Celery would accept an invalid message and drop it later, and its job would not end.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import isfinite
from typing import Any, Final

from celery.exceptions import InvalidTaskError
from celery.utils.time import timezone
from kombu.asynchronous.timer import to_timestamp

from berlin_schemas.names import is_job_id

_FOLLOW_UPS: Final = ("callbacks", "errbacks", "chain", "chord", "group")


class InvalidMessage(InvalidTaskError):  # type: ignore[misc]  # celery has no type information
    """A message that cannot run. ``reason`` goes to the dead letters, ``detail`` to the event."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def validate(headers: Mapping[str, Any], payload: Sequence[Any], eta: datetime | None) -> None:
    """Raise :class:`InvalidMessage` unless Celery can run the task of this message.

    ``payload`` is the body of protocol 2: positional arguments, keyword arguments, and follow-ups
    (``chain`` and the like), which Celery reads from the headers, too. Follow-ups are refused: with
    one, a producer that may only enqueue jobs could write to any key, as the name of a queue, with
    the rights of the worker.
    """
    if not is_job_id(headers.get("id")):
        raise InvalidMessage("invalid_job_id", "the task ID is no job ID")
    args, kwargs, follow_ups = payload
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise InvalidMessage("not_a_task", "arguments: a list and an object are needed")
    if follow_ups and not isinstance(follow_ups, dict):
        raise InvalidMessage("not_a_task", "follow-ups: an object or null is needed")
    if any(map(headers.get, _FOLLOW_UPS)) or any(map((follow_ups or {}).get, _FOLLOW_UPS)):
        detail = "links, chains, chords and groups are refused: follow the job by its channel"
        raise InvalidMessage("follow_up", detail)
    if not _are_limits(headers.get("timelimit")):
        raise InvalidMessage("not_a_task", "timelimit: two numbers of seconds are needed, or nulls")
    if not _are_stamps(headers.get("stamped_headers"), headers.get("stamps")):
        raise InvalidMessage(
            "not_a_task", "stamped_headers, stamps: names and an object are needed"
        )
    if eta is not None and not _has_timestamp(eta):
        raise InvalidMessage("not_a_task", "eta: this date is out of range")


def _are_limits(limits: Any) -> bool:
    if not limits:
        return True
    is_pair = isinstance(limits, list | tuple) and len(limits) == 2  # noqa: PLR2004  # soft and hard limit
    return is_pair and all(
        each is None or (isinstance(each, int | float) and isfinite(each) and each >= 0)
        for each in limits
    )


def _are_stamps(stamped: Any, stamps: Any) -> bool:
    """Return whether Celery can compare these stamps with the revoked ones."""
    if not stamped:
        return True
    names = isinstance(stamped, list) and all(isinstance(name, str) for name in stamped)
    return names and isinstance(stamps, dict | None)


def _has_timestamp(eta: datetime) -> bool:
    try:
        to_timestamp(timezone.to_system(eta))  # type: ignore[no-untyped-call]  # kombu has no type information
    except (OverflowError, ValueError):
        return False
    return True
