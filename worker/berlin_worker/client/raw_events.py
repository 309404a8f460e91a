"""Events as their own bytes: number and type, without decoding the rest (pure).

A worker formats ``chunk``, ``reasoning`` and ``tool_call`` events by hand (``jobs/job_log.py``), so
their bytes have one regular form. :func:`parse_raw` takes an event of this form as it stands, and
decodes all others: events of other types, foreign bytes, other orders of the fields. The form is so
narrow that it holds valid events alone, so both ways accept and refuse the same bytes.
"""

import json
import math
import re
from typing import Final, NamedTuple

from berlin_schemas import encode
from berlin_worker.client import entries

_TEXT: Final = rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\bfnrt]|u00[01][0-9a-f]))'
"""Characters of a JSON string. Events with other escapes, such as half a character, are decoded."""
_FORM: Final = re.compile(
    rb'[1-9][0-9]{0,8},"type":"(?:(chunk|reasoning)|tool_call)"(?:,"db":([1-9][0-9]{0,8}))?,'
    rb'"ts":[1-9][0-9]{0,11}(?:\.[0-9]{1,20})?,"seq":([1-9][0-9]{0,14}),'
    rb'(?(1)"content":"%(c)b++"|"index":(?:0|[1-9][0-9]{0,8}),(?:"id":"%(c)b*+",)?'
    rb'(?:"name":"%(c)b*+",)?"arguments":"%(c)b*+")\}' % {b"c": _TEXT}
)


class RawEvent(NamedTuple):
    """An event as it stands in the log. ``data`` is its JSON object, in UTF-8.

    An event of a stranger with NaN, infinity or 1e400 is written anew, with ``null`` for these.
    """

    seq: int
    type: str
    data: bytes


def parse_raw(job_id: str, data: bytes) -> tuple[int, RawEvent | None, int] | None:
    """Return ``seq``, event and database of a message, as ``entries.parse_message`` does."""
    head = b'{"v":1,"job_id":"%b","attempt":' % job_id.encode()
    if (
        data.startswith(head)
        and (found := _FORM.fullmatch(data, len(head))) is not None
        and _is_utf8(data)
    ):
        text, database, number = found.groups()
        kind = text.decode() if text else "tool_call"
        return int(number), RawEvent(int(number), kind, data), int(database or 0)
    parsed = entries.parse_message(job_id, data)
    if parsed is None:
        return None
    seq, event, of_database = parsed
    if event is None:
        return seq, None, of_database
    return seq, RawEvent(seq, event.type, data if _is_json(data) else encode(event)), of_database


def _is_json(data: bytes) -> bool:
    """Return whether all numbers in ``data`` are numbers for each JSON parser."""
    try:
        json.loads(data, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError):
        return False
    return True


def _number(word: str) -> float:
    if math.isfinite(number := float(word)):
        return number
    raise ValueError(word)


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
