"""Usage of attempts: its fields in the events of a job, and its sum (pure).

Usage is the object that an upstream reports, by OpenAI's names. Any field may be missing, or hold
anything.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_json

_MOST: Final = 2**53
"""Numbers from here on have no part in a sum: JSON of other languages cannot hold them."""
_DEEPEST: Final = 8
"""Objects nested deeper than this have no part in a sum. Known ones have two levels."""


def usage_fields(
    attempt: int, last: Mapping[str, Any] | None, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``usage`` and ``usage_total`` of the terminal event of an attempt.

    ``last`` is what that attempt has reported, ``before`` the sum of those before it.
    """
    total = add_usage(before, last or {}) if attempt > 1 else {}
    return {"usage": last, "usage_total": total or None}


def add_usage(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sum of all numbers of both, also of nested objects; leave out all else."""
    return _add(one, other, _DEEPEST)


def encodable(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return ``usage``, or its numbers if no event could hold it all; ``None`` if it has none."""
    if not isinstance(usage, dict):
        return None
    try:
        to_json(usage)
    except (PydanticSerializationError, ValueError, RecursionError):
        return add_usage(usage, {}) or None
    return usage


def _add(one: Mapping[str, Any], other: Mapping[str, Any], deepest: int) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for name in dict.fromkeys([*one, *other]):
        values = [each[name] for each in (one, other) if name in each]
        objects = [value for value in values if isinstance(value, Mapping)]
        numbers = [value for value in values if _is_number(value)]
        if objects and deepest > 1:
            nested = _add(objects[0], objects[1] if len(objects) > 1 else {}, deepest - 1)
            if nested:
                total[name] = nested
        elif numbers:
            total[name] = sum(numbers)
    return total


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -_MOST < value < _MOST  # false for NaN
