"""A fast path for chunks that differ from an earlier one in their text alone. Pure.

Most servers repeat 250 bytes around each word. Once a chunk has been decoded, its bytes before and
after the text are a template. A chunk of these bytes with other bytes in between decodes to the
same object with another text, if those bytes are the inside of one JSON string. OpenAI pads each
chunk at its end by a string of random length, so a template may have a second gap there.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self

from pydantic_core import from_json

from berlin_worker.providers.deltas import Delta, ReasoningDelta

_UNPLAIN: Final = re.compile(rb'["\\\x00-\x1f\x7f-\xff]').search
_CALLS: Final = ("tool_calls", "function_call")
"""Pieces of a call yield no delta until the call has a name."""
_NEWS: Final = ("finish_reason", "usage", "x_groq")
_PADDING: Final = b',"obfuscation":"'
"""Hides the length of a chunk's text from those who see encrypted packets."""

Key = Literal["content", "reasoning_content", "reasoning"]
_VALUES: Final = {
    key: re.compile(rb'"%b"[ \t]*:[ \t]*"([^"]+)"' % key.encode())
    for key in ("content", "reasoning_content", "reasoning")
}


class ChunkTemplate:
    """The bytes around the text of a chunk: prefix, text, suffix, then padding and end if padded.

    A suffix has quotes that are not escaped, and such a quote ends a string. So the text ends at
    the first suffix after the prefix, or the chunk is no JSON.
    """

    __slots__ = (
        "_end",
        "_framed_end",
        "_framed_prefix",
        "_gap",
        "_is_padded",
        "_prefix",
        "_suffix",
        "is_reasoning",
        "is_used",
    )

    def __init__(
        self, prefix: bytes, suffix: bytes, *, is_padded: bool, is_reasoning: bool
    ) -> None:
        self._prefix = prefix
        self._suffix = suffix[:-1] + _PADDING if is_padded else suffix
        self._end = b'"}' if is_padded else suffix
        self._framed_prefix = b"data: " + prefix
        self._framed_end = self._end + b"\n\n"
        self._gap = self._framed_end + self._framed_prefix
        self._is_padded = is_padded
        self.is_reasoning = is_reasoning
        self.is_used = False
        """A chunk has fitted."""

    @classmethod
    def of(cls, data: bytes, chunk: Mapping[str, Any], deltas: Sequence[Delta]) -> Self | None:
        """Return the template of ``data``: the JSON of ``chunk``, which was mapped to ``deltas``.

        ``None`` unless ``deltas`` are one text, whose place in ``data`` is certain, and the chunk
        has nothing else that counts.
        """
        choices = chunk.get("choices")
        if len(deltas) != 1 or not isinstance(choices, list) or len(choices) != 1 or b"\\" in data:
            return None
        delta = choices[0].get("delta")
        if not isinstance(delta, dict):  # a whole message
            return None
        if any(delta.get(each) for each in _CALLS) or any(
            holder.get(each) for holder in (chunk, choices[0]) for each in _NEWS
        ):
            return None
        match deltas[0]:
            case str(text):
                key: Key = "content"
            case ReasoningDelta(text):
                key = "reasoning_content" if delta.get("reasoning_content") else "reasoning"
                if key != "reasoning" and delta.get("reasoning"):
                    return None  # it would count in a chunk whose reasoning_content is empty
            case _:
                return None
        unpadded = _without_padding(data)
        body = unpadded or data
        # Without a backslash a key has one spelling. If it occurs once, that is its place.
        if delta.get(key) != text or body.count(b'"%b"' % key.encode()) != 1:
            return None
        value = _VALUES[key].search(body)
        if value is None or value[1] != text.encode():
            return None
        start, end = value.span(1)
        return cls(
            body[:start],
            body[end:],
            is_padded=unpadded is not None,
            is_reasoning=key != "content",
        )

    def text_of(self, data: bytes) -> str | None:
        """Return the text of a chunk, possibly empty; ``None`` if it does not fit."""
        prefix, end = self._prefix, self._end
        if len(data) < len(prefix) + len(end):
            return None
        if not (data.startswith(prefix) and data.endswith(end)):
            return None
        return self._text_of(data[len(prefix) : -len(end)])

    def texts_of_read(self, data: bytes) -> list[str] | None:
        """Return the texts of a read of whole events alone, none of them empty; ``None`` if one
        does not fit."""
        prefix, end = self._framed_prefix, self._framed_end
        if len(data) < len(prefix) + len(end):
            return None
        if not (data.startswith(prefix) and data.endswith(end)):
            return None
        parts = data[len(prefix) : -len(end)].split(self._gap)
        if len(parts) > 1:
            return self._texts_of(parts)
        text = self._text_of(parts[0])
        if text is None:
            return None
        return [text] if text else []

    def _text_of(self, part: bytes) -> str | None:
        if self._is_padded:
            part, suffix, padding = part.partition(self._suffix)
            if not (suffix and _is_padding(padding)):
                return None
        text = _inside(part)
        self.is_used = self.is_used or text is not None
        return text

    def _texts_of(self, parts: Sequence[bytes]) -> list[str] | None:
        if self._is_padded:
            suffix = self._suffix
            insides, found, paddings = zip(*[part.partition(suffix) for part in parts], strict=True)
            if b"" in found or not _is_padding(b"".join(paddings)):
                return None
            parts = insides
        # All at once: single calls take longer. None has a line feed, which would end its event.
        texts = _plain(b"\n".join(parts))
        if texts is None or len(texts) != len(parts):
            decoded = [_inside(part) for part in parts]
            texts = [text for text in decoded if text is not None]
            if len(texts) < len(decoded):
                return None
        self.is_used = True
        return texts if all(texts) else [text for text in texts if text]


def _inside(data: bytes) -> str | None:
    """Return the text of the JSON string with this inside; ``None`` if it is no such inside."""
    try:
        if b'"' not in data and b"\\" not in data:
            text = data.decode()
            # No control character stands in a JSON string; this is a bit stricter.
            if text.isprintable():
                return text
        decoded: str = from_json(b'"%b"' % data)
    except ValueError:
        return None
    return decoded


def _plain(lines: bytes) -> list[str] | None:
    """Return the lines as texts of JSON strings; ``None`` if that needs a decoder."""
    if b'"' in lines or b"\\" in lines:
        return None
    try:
        texts = lines.decode().split("\n")
    except UnicodeDecodeError:
        return None
    return texts if "".join(texts).isprintable() else None


def _is_padding(data: bytes) -> bool:
    return data.isalnum() or not _UNPLAIN(data)


def _without_padding(data: bytes) -> bytes | None:
    place = data.rfind(_PADDING)
    if place < 0 or not data.endswith(b'"}'):
        return None
    if _UNPLAIN(data, place + len(_PADDING), len(data) - 2):
        return None
    return data[:place] + b"}"
