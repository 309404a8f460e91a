"""Limits of one reply, and surrogate pairs that two deltas share. Pure."""

import json
import re
from dataclasses import dataclass
from typing import Final

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.settings import Settings

LONE_HALF: Final = "\N{REPLACEMENT CHARACTER}"
"""Replacement for half a surrogate pair whose other half never comes."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one reply; ``max_text_bytes`` counts all bytes, JSON included."""

    max_line_bytes: int
    max_chunks: int
    max_text_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Return the limits of the settings."""
        return cls(settings.max_line_bytes, settings.max_chunks, settings.max_text_bytes)

    def too_long(self) -> JobError:
        """Return the error of a line over the limit."""
        return _too_much(f"{self.max_line_bytes} bytes in one line", "WORKER_MAX_LINE_BYTES")

    def too_many(self) -> JobError:
        """Return the error of a reply with more chunks than the limit."""
        return _too_much(f"{self.max_chunks} chunks", "WORKER_MAX_CHUNKS")

    def too_large(self) -> JobError:
        """Return the error of a reply over the limit."""
        return _too_much(f"{self.max_text_bytes} bytes", "WORKER_MAX_TEXT_BYTES")


def join_halves(half: str, content: str) -> tuple[str, str]:
    """Return ``half`` and ``content`` as one text, and the half of a pair that the text ended with.

    That half, or "", is the ``half`` of the next call. The text always encodes as UTF-8: a half
    without its other half becomes U+FFFD.
    """
    text = half + content
    if _SURROGATE.search(text) is None:
        return text, ""
    half = ""
    if "\ud800" <= text[-1] <= "\udbff":
        half, text = text[-1], text[:-1]
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), half


def lenient_json(data: bytes) -> object:
    """Return what ``data`` holds, or ``None`` if it is no JSON.

    pydantic's parser is quicker, but it refuses half a surrogate pair, which the next delta may
    complete.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _too_much(what: str, setting: str) -> JobError:
    message = f"the upstream sent more than {what}, which is the limit ({setting})"
    return JobError(ErrorCode.UPSTREAM_ERROR, message)
