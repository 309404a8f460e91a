"""Parse values of records and indexes in Redis, which any client may have written (pure).

An invalid value counts as missing, by the rules of the scripts (``lua/prelude.lua``).
"""

import json
from typing import Final

from pydantic import JsonValue

from berlin_schemas import names

_BEYOND: Final = 10**13
"""Whole numbers are below this, times in ms among them."""
_MOST_DIGITS: Final = 13


def text(value: bytes | None) -> str | None:
    """Return the text; bytes that are no UTF-8 become replacement characters."""
    return None if value is None else value.decode(errors="replace")


def whole(value: bytes | None) -> int | None:
    """Return the whole number from 0 to 10**13 - 1, or None for anything else."""
    # isdigit() of bytes takes ASCII digits alone; int() would take spaces, underscores and signs.
    if value is None or not value.isdigit() or len(value) > _MOST_DIGITS:
        return None
    return int(value)


def is_time_ms(score: float) -> bool:
    """Return whether a score can be a time in ms: infinity cannot."""
    return 0 <= score < _BEYOND


def json_object(value: bytes | None) -> dict[str, JsonValue]:
    """Return the JSON object, or an empty one for anything else; NaN and infinity are no JSON."""
    try:
        found = json.loads(value or b"{}")
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def as_job_id(member: bytes) -> str | None:
    """Decode ``member``; return ``None`` if it is no job ID."""
    try:
        job_id = member.decode("ascii")
    except UnicodeDecodeError:
        return None
    return job_id if names.is_job_id(job_id) else None
