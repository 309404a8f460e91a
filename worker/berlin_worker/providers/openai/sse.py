"""Server-sent events after the WHATWG's standard: bytes, cut anywhere, to events. Pure.

A line ends with CR, LF or CRLF, and an empty line ends an event. One byte order mark at the
beginning is skipped. A line that begins with a colon is a comment; ``id`` and ``retry`` are for a
reader that reconnects, and no completion can be continued. The standard drops a last event without
its empty line. Here :meth:`EventReader.finish` returns it, since servers leave that line out; the
caller decides whether its data is whole.
"""

from typing import Final

_BOM: Final = b"\xef\xbb\xbf"
_STRAY_BYTES: Final = 16384
_LINE_ENDS: Final = b"\r\n"

Event = tuple[bytes, bytes]
"""The name of an event, often empty, and its data."""


class EventReader:
    """Reads one stream. The events do not depend on where the bytes were cut.

    ``max_bytes`` bounds a line, and the data of one event.
    """

    __slots__ = (
        "_after_cr",
        "_begun",
        "_data",
        "_data_bytes",
        "_line",
        "_max_bytes",
        "_name",
        "has_lines",
        "is_between",
        "is_full",
        "stray",
    )

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._name = b""
        self._after_cr = False
        self._begun = False
        self.is_between = False
        """A line that comes now begins an event."""
        self.has_lines = False
        """An event had several lines of data."""
        self.is_full = False
        """A line or an event is over the limit: no event follows."""
        self.stray = bytearray()
        """The first 16 KiB of the lines outside events: a page, or an error in plain JSON."""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that ``data`` completes."""
        # Most reads hold whole events of one line each. This takes a third of the usual time.
        if (
            self.is_between
            and data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and b"\r" not in data
            and len(data) <= self._max_bytes
        ):
            events = data[6:-2].split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * len(events):
                return [(b"", event) for event in events]
        if self._after_cr:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if not data:
            return []
        self._after_cr = data.endswith(b"\r")
        lines = data.splitlines()
        if self._line:
            self._line += lines[0]
            lines[0] = bytes(self._line)
            self._line.clear()
        if data[-1] not in _LINE_ENDS:
            self._line += lines.pop()
        found = self._read(lines)
        if len(self._line) > self._max_bytes:
            self.is_full = True
        open_parts = self._line or self._data or self._name or self._after_cr or self.is_full
        self.is_between = self._begun and not open_parts
        return found

    def finish(self) -> list[Event]:
        """Return the event that the end of the stream completes, if there is one."""
        line, self._line = bytes(self._line), bytearray()
        return self._read([line, b""] if line else [b""])

    def _read(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            if self.is_full:
                break
            if not self._begun:
                self._begun = True
                line = line.removeprefix(_BOM)  # noqa: PLW2901  # only the first line may have it
            if not line:
                if self._data:
                    self.has_lines = self.has_lines or len(self._data) > 1
                    events.append((self._name, b"\n".join(self._data)))
                    self._data, self._data_bytes = [], 0
                self._name = b""
            elif len(line) > self._max_bytes:
                self.is_full = True
            elif line.startswith(b"data:"):
                self._add(line[6:] if line[5:6] == b" " else line[5:])
            else:
                self._take(line)
        return events

    def _add(self, data: bytes) -> None:
        self._data.append(data)
        self._data_bytes += len(data) + 1
        if self._data_bytes > self._max_bytes + 1:
            self.is_full = True

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"event":
            self._name = value.removeprefix(b" ")
        elif name == b"data":
            self._add(b"")
        elif name not in {b"", b"id", b"retry"} and len(self.stray) < _STRAY_BYTES:
            self.stray += line[:_STRAY_BYTES] + b"\n"
