"""The quick way for chunks that differ from the one before in their text alone. Pure.

Most servers repeat 250 bytes around each word. Once a chunk has been decoded, its bytes before and
after the text are a template: a chunk of these bytes and other text in between decodes to the same
object with that text, if nothing in the text ends or escapes a JSON string. Measured on a chunk of
300 bytes: 0.3 µs, and 1.8 by pydantic, 1.4 by orjson, 0.65 by msgspec with a struct.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self

from berlin_worker.providers.deltas import Delta, ReasoningDelta

_UNPLAIN: Final = re.compile(rb'["\\\x00-\x1f]').search
_PADDING: Final = b',"obfuscation":"'
"""OpenAI pads each chunk at its end, so that its length does not give its text away."""

Key = Literal["content", "reasoning_content", "reasoning"]
_VALUES: Final = {
    key: re.compile(rb'"%b"[ \t]*:[ \t]*"([^"]+)"' % key.encode())
    for key in ("content", "reasoning_content", "reasoning")
}


class ChunkTemplate:
    """The bytes around the text of a chunk."""

    __slots__ = (
        "_framed_prefix",
        "_framed_suffix",
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
        self._suffix = suffix
        self._framed_prefix = b"data: " + prefix
        self._framed_suffix = suffix + b"\n\n"
        self._gap = self._framed_suffix + self._framed_prefix
        self._is_padded = is_padded
        self.is_reasoning = is_reasoning
        self.is_used = False
        """A chunk has fitted."""

    @classmethod
    def of(cls, data: bytes, chunk: Mapping[str, Any], deltas: Sequence[Delta]) -> Self | None:
        """Return the template of ``data``, which holds ``chunk``, which was mapped to ``deltas``.

        ``None`` if they are more than one text, or if its place is not certain.
        """
        if len(deltas) != 1 or len(chunk["choices"]) != 1 or b"\\" in data:
            return None
        delta = chunk["choices"][0]["delta"]
        match deltas[0]:
            case str(text):
                key: Key = "content"
            case ReasoningDelta(text):
                key = "reasoning_content" if delta.get("reasoning_content") else "reasoning"
            case _:
                return None
        unpadded = _without_padding(data)
        body = unpadded or data
        # Without a backslash a key and a text have one spelling; once means that it is this one.
        if delta.get(key) != text or body.count(b'"%b"' % key.encode()) != 1:
            return None
        value = _VALUES[key].search(body)
        if value is None or value[1] != text.encode() or _UNPLAIN(value[1]):
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
        if self._is_padded:
            unpadded = _without_padding(data)
            if unpadded is None:
                return None
            data = unpadded
        prefix, suffix = self._prefix, self._suffix
        end = len(data) - len(suffix)
        if end < len(prefix) or not (data.startswith(prefix) and data.endswith(suffix)):
            return None
        text = _plain(data[len(prefix) : end])
        self.is_used = self.is_used or text is not None
        return text

    def texts_of_read(self, data: bytes) -> list[str] | None:
        """Return the texts of a read of whole events alone, possibly empty; ``None`` if one does
        not fit."""
        prefix, suffix = self._framed_prefix, self._framed_suffix
        end = len(data) - len(suffix)
        if end < len(prefix) or not (data.startswith(prefix) and data.endswith(suffix)):
            return None
        texts: list[str] = []
        for part in data[len(prefix) : end].split(self._gap):
            text = _plain(part)
            if text is None:
                return None
            if text:
                texts.append(text)
        self.is_used = True
        return texts


def _plain(data: bytes) -> str | None:
    """Return the text that stands in JSON as ``data``; ``None`` if that needs a decoder."""
    if b'"' in data or b"\\" in data:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    # No control character stands in a JSON string; this is a bit stricter.
    return text if text.isprintable() else None


def _without_padding(data: bytes) -> bytes | None:
    place = data.rfind(_PADDING)
    if place < 0 or not data.endswith(b'"}'):
        return None
    if _UNPLAIN(data, place + len(_PADDING), len(data) - 2):
        return None
    return data[:place] + b"}"
