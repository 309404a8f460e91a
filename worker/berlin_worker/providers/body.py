"""Read the body of a reply from aiohttp, decode it, and check that it is whole.

A body is whole only if its framing and its codings are complete, and its connection ended in
order. aiohttp reports a broken framing. It does not report a coding that stops early, nor the reset
of a connection whose end is the end of the body (RFC 9112, 8: such a body is incomplete).
"""

import asyncio
import codecs
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Final

import aiohttp

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.codings import BodyDecoder, codings_of
from berlin_worker.providers.response import CONTEXT, Response

ERROR_BODY_BYTES: Final = 16384
ERROR_BODY_TIMEOUT_S: Final = 5.0
_MAX_CODED_BYTES: Final = 65536
"""Limit for the compressed body of an error or of a login."""
_EMPTY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT})
# Codecs that are not for text, or have side effects: they are no charset of a page.
_NO_CHARSETS: Final = frozenset(
    {"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"}
)


class Body:
    """The body of one response; :meth:`forget` it when no more is read.

    ``read`` returns the next bytes, decoded, or ``b""`` at the end; then :meth:`finish` raises
    if the body was cut. ``read`` raises ``JobError`` for bytes that cannot be decoded, and what
    aiohttp raises if the framing is broken. It also fails once the connection is closed: aiohttp
    3.14 closes a connection whose framing is broken, and aiohttp's own reader then waits for ever.
    """

    __slots__ = ("_closed", "_content", "_decoder", "_error", "_pieces", "_until_close", "read")

    read: Callable[[], Awaitable[bytes]]

    def __init__(self, response: aiohttp.ClientResponse, max_bytes: int) -> None:
        """``max_bytes`` limits a coded body before it is decoded.

        Raises ``JobError`` for a coding that cannot be decoded.
        """
        transfer = _values(response, "Transfer-Encoding")
        chunked = transfer[-1:] == ["chunked"]
        codings = []
        if response.status not in _EMPTY:
            # Transfer codings are undone first, so they come last.
            others = transfer[:-1] if chunked else transfer
            codings = codings_of([*_values(response, "Content-Encoding"), *others])
        self._until_close = not chunked and (
            bool(transfer) or "Content-Length" not in response.headers
        )
        self._content = response.content
        self._error: Exception | None = None
        self._pieces: Iterator[bytes] = _NONE
        self._decoder = BodyDecoder(codings, max_bytes) if codings else None
        # A plain body, the common case, has no step in between.
        self.read = self._read_coded if codings else response.content.readany
        self._closed = response.connection_end if isinstance(response, Response) else None
        if self._closed is not None:
            self._closed.add_done_callback(self, context=CONTEXT)

    def __call__(self, _: "asyncio.Future[None]") -> None:
        """Fail the reader: the connection is closed (the callback of its future)."""
        if not self._content.is_eof() and self._content.exception() is None:
            self._content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    def forget(self) -> None:
        """Stop watching the connection, which may serve other requests from now on."""
        if self._closed is not None:
            self._closed.remove_done_callback(self)

    def finish(self) -> None:
        """Raise ``JobError(UPSTREAM_ERROR)``, retryable, if the body that has ended was cut."""
        if self._decoder is not None:
            self._decoder.finish()
        if self._until_close and self._closed is not None and self._closed.done():
            error = None if self._closed.cancelled() else self._closed.exception()
            if error is not None:
                message = "the connection to the upstream broke"
                raise JobError(ErrorCode.UPSTREAM_ERROR, message, retryable=True)

    def drain_buffer(self) -> bytes:
        """Return the bytes that came before the connection broke: aiohttp's reader keeps them."""
        if self._decoder is not None:
            return b""  # _read_coded has decoded it already
        return _drain(self._content)

    async def _read_coded(self) -> bytes:
        decoder = self._decoder
        assert decoder is not None
        if piece := next(self._pieces, None):
            # A decompression bomb must not block the other jobs.
            await asyncio.sleep(0)
            return piece
        while self._error is None:
            try:
                data = await self._content.readany()
            except Exception as error:  # noqa: BLE001  # raised again below, after the last piece
                self._error, data = error, _drain(self._content)
            else:
                if not data:
                    return b""
            self._pieces = decoder.feed(data)
            if piece := next(self._pieces, None):
                return piece
        raise self._error


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the first ``limit`` bytes of the body; raises ``JobError`` and what aiohttp raises."""
    data = bytearray()
    await _read_into(data, response, limit)
    return bytes(data[:limit])


async def read_error_body(response: aiohttp.ClientResponse, timeout_s: float) -> str:
    """Return what arrives of an error body in that time: at most 16 KiB, and 5 s."""
    data = bytearray()
    try:
        async with asyncio.timeout(min(timeout_s, ERROR_BODY_TIMEOUT_S)):
            await _read_into(data, response, ERROR_BODY_BYTES)
    except Exception:  # noqa: BLE001, S110  # the status is enough: a broken body adds nothing
        pass
    return text_of(bytes(data[:ERROR_BODY_BYTES]), charset_of(response))


async def drain(body: Body, timeout_s: float) -> None:
    """Read what is left of a body whose reply is complete, so that its connection can be reused.

    Return after that time, or 64 KiB, or an error: then the connection cannot be reused.
    """
    left = _MAX_CODED_BYTES
    try:
        async with asyncio.timeout(timeout_s):
            while left > 0 and (data := await body.read()):
                left -= len(data)
    except Exception:  # noqa: BLE001, S110  # the reply is complete, whatever follows it
        pass


async def _read_into(data: bytearray, response: aiohttp.ClientResponse, limit: int) -> None:
    body = Body(response, _MAX_CODED_BYTES)
    try:
        while len(data) < limit:
            if not (piece := await body.read()):
                body.finish()
                return
            data += piece
    except Exception:
        data += body.drain_buffer()
        raise
    finally:
        body.forget()


def charset_of(response: aiohttp.ClientResponse) -> str | None:
    """Return the charset that the reply names, if its ``Content-Type`` can be parsed."""
    try:
        return response.charset
    except Exception:  # noqa: BLE001  # Python's parser of e-mail headers raises IndexError for "x*"
        return None


def text_of(data: bytes, charset: str | None) -> str:
    """Decode ``data`` for people: by its byte order mark, by ``charset``, or else as UTF-8."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name, "replace")
    try:
        name = codecs.lookup(charset or "utf-8").name.replace("-", "_")
        return data.decode("utf-8" if name in _NO_CHARSETS else name, "replace")
    except (LookupError, ValueError):
        return data.decode(errors="replace")


def _values(response: aiohttp.ClientResponse, header: str) -> list[str]:
    listed = ",".join(response.headers.getall(header, ()))
    if not listed:
        return []
    return [value for each in listed.split(",") if (value := each.strip().lower())]


def _drain(content: aiohttp.StreamReader) -> bytes:
    # aiohttp refuses to return its buffer while an error is set; this is its only public reset.
    content.set_exception(None)  # type: ignore[arg-type]
    return content.read_nowait()


_NONE: Final[Iterator[bytes]] = iter(())
