"""One answer: bytes, cut anywhere, to deltas, finish reason and usage. Pure.

An answer ends with ``[DONE]``, or with a finish reason and the end of a body that is whole. A body
that ends without both, or within an event, was cut: another attempt may bring the rest.
"""

import json
from typing import Final

from pydantic_core import from_json

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.deltas import Delta, ReasoningDelta
from berlin_worker.providers.limits import Limits
from berlin_worker.providers.openai import errors
from berlin_worker.providers.openai.mapping import ChunkMapper
from berlin_worker.providers.openai.redaction import Show
from berlin_worker.providers.openai.sse import Event, EventReader
from berlin_worker.providers.openai.template import ChunkTemplate

PAGE_BYTES: Final = 16384
_DONE: Final = b"[DONE]"
_PAGES: Final = frozenset({b"<", b"{", b"["})
"""First bytes of a body that is no event stream: HTML, or JSON."""
_LEARNT: Final = 8
"""How many templates in a row may be made that no chunk fits; then no more are made."""

Decoded = tuple[list[Delta], JobError | None]
"""The valid deltas, and the error that follows them, if any."""


class AnswerDecoder:
    """Decodes one answer. The deltas do not depend on where the bytes were cut.

    ``show`` makes a server's words fit to be shown. After an error the decoder is of no further
    use. ``mapper`` has the finish reason and the usage.
    """

    def __init__(self, limits: Limits, show: Show) -> None:
        self._limits = limits
        self._show = show
        self._reader = EventReader(limits.max_line_bytes)
        self._template: ChunkTemplate | None = None
        self._learnt = 0
        self._bytes = 0
        self._chunks = 0
        self._head: bytearray | None = bytearray()
        """The beginning of the body, until there is an event; of JSON up to a line's limit."""
        self._opening = b""
        """The first byte of the body that is no space."""
        self.mapper = ChunkMapper()
        self.is_done = False
        """The server has marked the end: all further data is ignored."""

    def feed(self, data: bytes) -> Decoded:
        """Return the deltas in the events that ``data`` completes, and the error after them."""
        self._bytes += len(data)
        if self._template is not None and (texts := self._quick(data)) is not None:
            return texts, None
        if self._head is not None:
            self._opening = self._opening or data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
            most = self._limits.max_line_bytes if self._opening == b"{" else PAGE_BYTES
            self._head += data[: max(0, most - len(self._head))]
            if self._opening in _PAGES:
                return [], self._no_stream() if len(self._head) >= most else None
        excess = self._bytes - self._limits.max_text_bytes
        deltas: list[Delta] = []
        events = self._reader.feed(data if excess <= 0 else data[: max(0, len(data) - excess)])
        error = self._take_all(events, deltas)
        if error is None and not self.is_done:
            if self._reader.is_full:
                error = self._limits.too_long()
            elif excess > 0:
                error = self._limits.too_large()
        return deltas, error

    def finish(self) -> Decoded:
        """Return the deltas that the end of a whole body completes, and the error after them."""
        if self.is_done:
            return [], None
        if self._head is not None and self._opening in _PAGES:
            return self._take_whole()
        deltas: list[Delta] = []
        error = self._take_all(self._reader.finish(), deltas, is_last=True)
        if error is not None or self.is_done:
            return deltas, error
        if self.mapper.finish_reason is None:
            return deltas, self._cut()
        return deltas, self._add(self.mapper.finish(), deltas)

    def _take_all(
        self, events: list[Event], deltas: list[Delta], *, is_last: bool = False
    ) -> JobError | None:
        if not events:
            return None
        self._head = None
        template = self._template
        try:
            for name, data in _separated(events) if self._reader.has_lines else events:
                text = template.text_of(data) if template is not None and not name else None
                if text is None:
                    found = self._decode(name, data, is_last=is_last)
                    template = self._template
                elif template is not None and template.is_reasoning:
                    text = self.mapper.reasoning(text)
                    found = [ReasoningDelta(text)] if text else []
                elif self.mapper.text_half:
                    text = self.mapper.text(text)
                    found = [text] if text else []
                elif text and self._chunks < self._limits.max_chunks:
                    self._chunks += 1  # the common case: decoded UTF-8 has no halves of pairs
                    deltas.append(text)
                    continue
                else:
                    found = [text] if text else []
                if found and (error := self._add(found, deltas)):
                    return error
                if self.is_done:
                    break
        except JobError as error:
            return error
        return None

    def _quick(self, data: bytes) -> list[Delta] | None:
        """Return the deltas of a read of events that fit the template: the common case."""
        template, limits, mapper = self._template, self._limits, self.mapper
        if template is None:
            return None
        if mapper.reasoning_half if template.is_reasoning else mapper.text_half:
            return None
        if (
            not self._reader.is_between
            or self._bytes > limits.max_text_bytes
            or len(data) > limits.max_line_bytes
        ):
            return None
        texts = template.texts_of_read(data)
        if texts is None or self._chunks + len(texts) > limits.max_chunks:
            return None
        self._chunks += len(texts)
        if template.is_reasoning:
            return [ReasoningDelta(text) for text in texts]
        return texts  # type: ignore[return-value]  # a new list: its items may be of any kind

    def _add(self, found: list[Delta], deltas: list[Delta]) -> JobError | None:
        room = self._limits.max_chunks - self._chunks
        self._chunks += len(found)
        deltas += found[:room]
        return self._limits.too_many() if len(found) > room else None

    def _decode(self, name: bytes, data: bytes, *, is_last: bool) -> list[Delta]:
        text = data.strip()
        if not text:
            return []
        if _is_mark(text):
            self.is_done = True
            return self.mapper.finish()
        chunk = _decoded(data)
        if chunk is None and is_last and name != b"error":
            if self.mapper.finish_reason is not None:
                return []
            raise self._cut()
        if failure := self._failure(name, text if chunk is None else chunk):
            raise failure
        if not isinstance(chunk, dict):
            shown = self._show(data[:PAGE_BYTES].decode(errors="replace"))
            message = f"the upstream sent an event that is no chunk: {shown}"
            raise JobError(ErrorCode.BAD_CHUNK, message)
        deltas = self.mapper.map(chunk)
        self._learn(data, chunk, deltas)
        return deltas

    def _failure(self, name: bytes, chunk: object) -> JobError | None:
        """Return the error that a server has sent in place of a chunk, or in one."""
        if isinstance(chunk, dict) and name != b"error" and "choices" in chunk:
            found = chunk.get("error")
            if not found and isinstance(chunk["choices"], list):
                for choice in chunk["choices"]:
                    found = found or (isinstance(choice, dict) and choice.get("error"))
            if not found:
                return None
            chunk = {"error": found}
        error = errors.read_error(chunk)
        if error is None and name == b"error":
            words = chunk.decode(errors="replace") if isinstance(chunk, bytes) else chunk
            error = errors.UpstreamError(words if isinstance(words, str) else "")
        return error and errors.in_stream(error, self._show)

    def _learn(self, data: bytes, chunk: dict[str, object], deltas: list[Delta]) -> None:
        if self._template is not None and self._template.is_used:
            self._learnt = 0
        if deltas and self._learnt < _LEARNT:
            self._learnt += 1
            self._template = ChunkTemplate.of(data, chunk, deltas)

    def _cut(self) -> JobError:
        """Return the error of an answer without an end; lines outside events may have its cause."""
        message = "the answer of the upstream was cut before its end"
        if stray := bytes(self._reader.stray).decode(errors="replace"):
            found = errors.no_stream(stray, self._show)
            if found.code is not ErrorCode.BAD_CHUNK:
                return found
            message += f": {self._show(stray)}"
        return JobError(ErrorCode.UPSTREAM_ERROR, message, retryable=True)

    def _take_whole(self) -> Decoded:
        """Return the deltas of an answer in one piece: some servers do not stream every answer."""
        whole = _decoded(bytes(self._head or b""))
        if not (isinstance(whole, dict) and errors.is_answer(whole)):
            return [], self._no_stream()
        if failure := self._failure(b"", whole):
            return [], failure
        deltas: list[Delta] = []
        try:
            found = self.mapper.map(whole)
        except JobError as error:
            return [], error
        self.is_done = True
        return deltas, self._add([*found, *self.mapper.finish()], deltas)

    def _no_stream(self) -> JobError:
        page = bytes(self._head or b"")[:PAGE_BYTES]
        return errors.no_stream(page.decode(errors="replace"), self._show)


def _separated(events: list[Event]) -> list[Event]:
    """Return ``events``, each alone: some servers send no empty line between two of them."""
    found: list[Event] = []
    for name, data in events:
        if b"\n" in data and _decoded(data) is None:
            found += [(name, line) for line in data.split(b"\n")]
        else:
            found.append((name, data))
    return found


def _is_mark(text: bytes) -> bool:
    """Return whether the data of an event is the mark of the end, or nearly so."""
    return text == _DONE or (len(text) <= len(_DONE) + 2 and text.strip(b'"').upper() == _DONE)


def _decoded(data: bytes) -> object:
    """Return what ``data`` holds, or ``None`` if it is no JSON.

    By the standard of event streams invalid UTF-8 is replaced. pydantic is quicker than the
    standard library, and refuses half a surrogate pair, which another delta may complete.
    """
    try:
        value: object = from_json(data, cache_strings="keys")
    except ValueError:
        try:
            value = json.loads(data.decode("utf-8-sig", "replace"), strict=False)
        except (ValueError, RecursionError):
            return None
    return value
