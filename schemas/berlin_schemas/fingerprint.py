"""The fingerprint of a job object: two jobs with one ID are one job if their fingerprints match.

The order of keys, fields that hold their default, ``job_id``, and the spelling of a number (``1``,
``1.0``) do not count. The rules use the object itself, not the model. So a version with further
fields computes an equal fingerprint, and an object that breaks the contract has one, too.

A producer does not know the defaults of the workers: so a named ``provider`` or ``model`` that is
the schema's default counts as not named, though a worker may have another default. To count it
would change the fingerprints in records of jobs that wait: workers of either version would refuse
a job whose record the other one wrote.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from berlin_schemas.jobs import PromptJob

_EXACT: Final = 2**53
"""Below this every whole float equals exactly one integer."""
_ARRAY: Final = (list, tuple)
_OBJECT: Final = (dict, Mapping)
# json.dumps with options would make a new encoder in each call.
_encode: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def fingerprint(obj: object) -> str:
    """Return 32 hexadecimal digits for a decoded job object, or any other JSON value.

    Return "" for an object that is nested too deeply, or is no JSON: it equals no other object.
    """
    if isinstance(obj, _OBJECT):
        defaults = _defaults()
        obj = {
            name: value
            for name, value in obj.items()
            if name != "job_id" and not (name in defaults and _same(value, defaults[name]))
        }
    try:
        text = _encode(_canonical(obj))
    except (RecursionError, TypeError, ValueError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def _defaults() -> dict[str, Any]:
    return {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in PromptJob.model_fields.items()
        if not field.is_required()
    }


def _same(value: object, default: object) -> bool:
    # In Python False equals 0 and 0.0, in JSON it does not.
    return isinstance(value, bool) is isinstance(default, bool) and value == default


def _canonical(value: Any) -> Any:
    # Most values are strings: no call for them. The abstract class comes last, since its isinstance
    # check takes longer than the rest.
    if isinstance(value, _ARRAY):
        return [item if type(item) is str else _canonical(item) for item in value]
    if isinstance(value, _OBJECT):
        return {
            name: item if type(item) is str else _canonical(item) for name, item in value.items()
        }
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value
