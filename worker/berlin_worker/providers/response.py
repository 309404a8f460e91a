"""A response that keeps its status line and the outcome of its connection.

aiohttp parses a packet as a whole: if a broken body follows the head in the same packet, or if
one header is broken, it drops the status with the rest. Its error then carries a status of
its own (400), which is not the upstream's.
"""

import asyncio
import contextvars
import re
from http import HTTPStatus
from typing import Final, NamedTuple

import aiohttp

_HEAD_BYTES: Final = 65536
"""The most that is kept of a head: aiohttp refuses a longer one."""
_STATUS_LINE: Final = re.compile(rb"[\r\n]*HTTP/[0-9]\.[0-9] ([1-9][0-9]{2})(?=[ \r\n])")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_RETRY_AFTER: Final = re.compile(rb"\nretry-after[ \t]*:[ \t]*([^\r\n]*)\r?\n", re.IGNORECASE)


class ReceivedHead(NamedTuple):
    """Status and ``Retry-After`` of a head, as far as it was received."""

    status: int
    retry_after: str | None


class BrokenResponse(aiohttp.ClientPayloadError):
    """The upstream sent an error status, and the rest of its response could not be read."""

    def __init__(self, head: ReceivedHead) -> None:
        super().__init__(f"status {head.status}, and a broken response")
        self.head = head


class Response(aiohttp.ClientResponse):
    """A response with a future of its connection's end, which may come before the head is read."""

    # A slot: one more entry would make its dictionary grow.
    __slots__ = ("connection_end",)

    connection_end: "asyncio.Future[None] | None"

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Read the head; aiohttp calls this as soon as the request is on its way.

        Raises :class:`BrokenResponse` if only an error status could be read.
        """
        protocol = connection.protocol
        self.connection_end = closed = protocol.closed if protocol is not None else None
        if closed is not None:
            closed.remove_done_callback(_retrieve_error)
            closed.add_done_callback(_retrieve_error, context=CONTEXT)
        if protocol is None or protocol.transport is None or self.method == "CONNECT":
            return await super().start(connection)  # the status of a proxy is not the upstream's
        recorder = _HeadRecorder(protocol, protocol.transport)
        try:
            return await super().start(connection)
        except Exception as error:
            head = parse_head(bytes(recorder.data))
            if head is None or head.status < HTTPStatus.MULTIPLE_CHOICES:
                raise
            raise BrokenResponse(head) from error
        finally:
            recorder.stop()


class _HeadRecorder(asyncio.Protocol):
    """Keep a copy of what a transport delivers to aiohttp until the head is read."""

    def __init__(
        self, protocol: aiohttp.client_proto.ResponseHandler, transport: asyncio.Transport
    ) -> None:
        self.data = bytearray()
        self._protocol = protocol
        self._transport = transport
        transport.set_protocol(self)

    def stop(self) -> None:
        """Connect aiohttp with the transport again, so that chunks do not pass through here."""
        if not self._transport.is_closing():
            self._transport.set_protocol(self._protocol)

    def data_received(self, data: bytes) -> None:
        if len(self.data) < _HEAD_BYTES:
            self.data += data[:_HEAD_BYTES]
        self._protocol.data_received(data)

    def eof_received(self) -> None:
        self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


def parse_head(data: bytes) -> ReceivedHead | None:
    """Return what ``data``, the beginning of a response, holds of its head (pure).

    Interim responses (1xx) are skipped. ``None``: no whole status was received.
    """
    start = 0
    while line := _STATUS_LINE.match(data, start):
        end = _HEAD_END.search(data, line.end())
        status = int(line[1])
        if status >= HTTPStatus.OK:
            found = _RETRY_AFTER.search(data, line.end(), end.end() if end else len(data))
            return ReceivedHead(status, found[1].decode("latin-1").strip() if found else None)
        if end is None:
            return None
        start = end.end()
    return None


CONTEXT: Final = contextvars.Context()
"""One context for all callbacks: a copy for each would last as long as its stream."""


def _retrieve_error(closed: "asyncio.Future[None]") -> None:
    # Otherwise asyncio logs an error that was never retrieved.
    if not closed.cancelled():
        closed.exception()
