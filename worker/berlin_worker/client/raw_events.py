"""Events as their own bytes: number and type, without decoding the rest (pure).

The bytes of a ``chunk``, ``reasoning`` or ``tool_call`` event, as ``berlin_schemas.encode`` writes
them, have one regular form. :func:`parse_raw` takes an event of this form as it stands, and decodes
all others: events of other types, foreign bytes, other orders of the fields. The form is so narrow
that it holds valid events alone, so both ways accept and refuse the same bytes.
"""

import re
from typing import Final, NamedTuple

from berlin_worker.client import entries

_TEXT: Final = rb'(?:[^"\\\x00-\x1f]++|\\["\\bfnrt])'
"""A character of a JSON string. Other escapes, which may name half a character, are decoded."""
_NUMBER: Final = rb"[1-9][0-9]{0,14}"
_FORM: Final = re.compile(
    rb'(%(n)b),"attempt":%(n)b,"ts":%(n)b(?:\.[0-9]{1,20})?,(?:"db":([1-9][0-9]{0,8}),)?"type":'
    rb'(?:"(chunk|reasoning)","content":"%(c)b++"|"(tool_call)","index":(?:0|%(n)b),'
    rb'(?:"id":"%(c)b*+",)?(?:"name":"%(c)b*+",)?"arguments":"%(c)b*+")\}'
    % {b"n": _NUMBER, b"c": _TEXT}
)


class RawEvent(NamedTuple):
    """An event as it stands in the log. ``data`` is its JSON object, in UTF-8."""

    seq: int
    type: str
    data: bytes


def parse_raw(job_id: str, data: bytes) -> tuple[int, RawEvent | None, int] | None:
    """Return ``seq``, event and database of a message, as ``entries.parse_message`` does."""
    head = b'{"v":1,"job_id":"%b","seq":' % job_id.encode()
    if (
        data.startswith(head)
        and (found := _FORM.fullmatch(data, len(head))) is not None
        and _is_utf8(data)
    ):
        seq, database, text, call = found.groups()
        kind = (text or call).decode()
        return int(seq), RawEvent(int(seq), kind, data), int(database or 0)
    parsed = entries.parse_message(job_id, data)
    if parsed is None:
        return None
    number, event, of_database = parsed
    raw = None if event is None else RawEvent(number, event.type, data)
    return number, raw, of_database


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
