"""The content of an entry of a log, and of a message of a channel (pure)."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

from berlin_schemas import Event, decode
from berlin_schemas.events import TERMINAL_TYPES, VERSION
from berlin_worker.errors import UnsupportedVersion

logger = logging.getLogger(__name__)

_KNOWN_TYPES: Final = TERMINAL_TYPES | {"started", "chunk", "reasoning", "tool_call", "reset"}

Entry = tuple[bytes, Mapping[bytes, bytes]]
"""An entry of the log as Redis returns it: ID ``<seq>-0`` and its fields."""


class _Typed(Protocol):
    @property
    def type(self) -> str: ...


E = TypeVar("E", bound=_Typed)
Parse = Callable[[str, bytes], tuple[int, E | None, int] | None]
"""Takes a job ID and the bytes of a message, as :func:`parse_message` does."""


def entries_of(found: Iterable[Any]) -> list[Entry]:
    """Return the entries of a reply, each an ID and a flat list of fields and values."""
    return [(seq, dict(zip(flat[::2], flat[1::2], strict=True))) for seq, flat in found]


def seq_of(entry: Entry) -> int:
    """Return the ``seq`` of the event in ``entry``."""
    return int(entry[0].partition(b"-")[0])


def data_of(entry: Entry) -> bytes:
    """Return the bytes of the event in ``entry``; empty if it has none."""
    return entry[1].get(b"event", b"")


def parse_message(job_id: str, data: bytes) -> tuple[int, Event | None, int] | None:
    """Return ``seq``, event and database of a message; ``None`` if it is no event of this job.

    The event is ``None`` if its type is of a later version.
    """
    try:
        event = decode(data)
    except ValueError:
        return _foreign(job_id, data)
    return (event.seq, event, event.db) if event.job_id == job_id else None


def _foreign(job_id: str, data: bytes) -> tuple[int, None, int] | None:
    obj = _object(data)
    if obj.get("job_id") != job_id or obj.get("v") != VERSION:
        return None
    seq, kind, database = obj.get("seq"), obj.get("type"), obj.get("db", 0)
    if type(seq) is not int or not isinstance(kind, str) or kind in _KNOWN_TYPES:
        return None
    return (seq, None, database) if type(database) is int else None


def _object(data: bytes) -> dict[str, object]:
    """Return the JSON object in ``data``, or an empty one if it holds none."""
    try:
        obj = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return obj if isinstance(obj, dict) else {}


def parse_entry(parse: Parse[E], job_id: str, seq: int, data: bytes) -> E | None:
    """Return the event of a log entry, by ``parse``; ``None`` if this version cannot read it.

    An unreadable message sends the reader to the log. An unreadable entry of the log is
    skipped: its ID gives its ``seq``.
    Raises :class:`UnsupportedVersion` for another version.
    """
    found = parse(job_id, data)
    if found is None or found[0] != seq:
        version = _object(data).get("v", VERSION)
        if version != VERSION:
            raise UnsupportedVersion(
                f"event {seq} of job {job_id} is of version {str(version)[:20]} of the contract, "
                f"and this client reads version {VERSION}"
            )
        logger.warning("entry %d in the log of job %s is no event; skipped", seq, job_id)
        return None
    return found[1]


def is_terminal(job_id: str, entry: Entry) -> bool:
    """Return whether ``entry`` holds a terminal event of this job, at its place in the log.

    The ID of such an entry is ``<seq>-0``: a second entry ``<seq>-1`` was added by a stranger.
    """
    if not entry[0].endswith(b"-0"):
        return False
    found = parse_message(job_id, data_of(entry))
    if found is None or found[0] != seq_of(entry) or found[1] is None:
        return False
    return found[1].type in TERMINAL_TYPES
