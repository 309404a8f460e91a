"""The content codings of a reply: compressed bytes, cut anywhere, to plain ones. Pure.

RFC 9110, 8.4: a body may have several codings, listed in the order in which they were
applied; the case of their names does not matter. A body is complete only if each of its codings
is: gzip has a trailer, zlib a checksum, raw deflate a last block. So a coded body without a
single byte was cut, too. Members of a coding that follow each other are read as one.
"""

import importlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError

PIECE_BYTES: Final = 65536
"""The largest piece of output: the limits stop a decompression bomb long before memory is full."""
# A member's decoder copies all bytes after the member, so it gets few bytes at a time.
_WINDOW_BYTES: Final = 4096
_MOST_CODINGS: Final = 4
# RFC 1950: the low half of the first byte of a zlib stream is its method, 8. Raw deflate
# never begins with this value, unless an encoder fills its padding with ones.
_ZLIB_METHOD: Final = 8


class Decoder(Protocol):
    """Decodes one member. After ``eof`` it takes no more; ``rest`` is what follows the member."""

    eof: bool
    rest: bytes
    pending: bool
    """More output waits: call :meth:`decode` without data first."""

    def decode(self, data: bytes) -> bytes:
        """Return at most about ``PIECE_BYTES``; raises what the library raises for bad data."""


class _Zlib:
    """gzip, zlib or raw deflate, by ``wbits``."""

    def __init__(self, wbits: int) -> None:
        self._object = zlib.decompressobj(wbits)
        self.eof, self.rest, self.pending = False, b"", False

    def decode(self, data: bytes) -> bytes:
        member = self._object
        # The tail holds all input that has not been used. If there is a tail, `data` is empty.
        piece = member.decompress(member.unconsumed_tail or data, PIECE_BYTES)
        self.eof, self.rest = member.eof, member.unused_data
        # A full piece may leave output in zlib's window, also without a tail of the input.
        full = len(piece) >= PIECE_BYTES
        self.pending = not member.eof and (full or bool(member.unconsumed_tail))
        return piece


class _Brotli:
    """Brotli 1.2 or later, or brotlicffi: older ones cannot bound their output."""

    def __init__(self, decompressor: Any) -> None:
        self._decompressor = decompressor
        self._process = getattr(decompressor, "process", None) or decompressor.decompress
        # The library itself raises an error for bytes after the end within one call.
        self.eof, self.rest, self.pending = False, b"", False

    def decode(self, data: bytes) -> bytes:
        piece: bytes = self._process(data, output_buffer_limit=PIECE_BYTES)
        self.eof = self._decompressor.is_finished()
        # brotli takes input while output is pending, too: only an empty piece means no more output.
        self.pending = bool(piece) and not self.eof
        return piece


class _Zstd:
    """``compression.zstd`` of Python 3.14, or its backport."""

    def __init__(self, decompressor: Any) -> None:
        self._decompressor = decompressor
        self.eof, self.rest, self.pending = False, b"", False

    def decode(self, data: bytes) -> bytes:
        frame = self._decompressor
        piece: bytes = frame.decompress(data, PIECE_BYTES)
        self.eof = frame.eof
        self.rest = frame.unused_data if frame.eof else b""
        self.pending = not frame.eof and not frame.needs_input
        return piece


def _gzip(_: int) -> Decoder:
    return _Zlib(16 + zlib.MAX_WBITS)


def _deflate(first_byte: int) -> Decoder:
    # The name means zlib; some servers send the raw form.
    is_zlib = first_byte & 0xF == _ZLIB_METHOD
    return _Zlib(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _first_of(*modules: str) -> Any:
    """Return the first of ``modules`` that is installed, or ``None``."""
    for module in modules:
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    return None


def _found() -> Mapping[str, Callable[[int], Decoder]]:
    """Return the codings of this process: by name, a function of a member's first byte."""
    found: dict[str, Callable[[int], Decoder]] = {
        "gzip": _gzip,
        "x-gzip": _gzip,
        "deflate": _deflate,
    }
    brotli = _first_of("brotlicffi", "brotli")
    if brotli is not None and hasattr(brotli.Decompressor, "can_accept_more_data"):
        found["br"] = lambda _: _Brotli(brotli.Decompressor())
    zstd = _first_of("compression.zstd", "backports.zstd")
    if zstd is not None:
        found["zstd"] = lambda _: _Zstd(zstd.ZstdDecompressor())
    return found


CODINGS: Final = _found()

ACCEPT_ENCODING: Final = ", ".join(name for name in ("gzip", "deflate", "br") if name in CODINGS)
"""The codings that a request offers: those of the protocol that can be decoded here."""


class _Layer:
    """One coding of a body: its members, one after the other."""

    def __init__(self, name: str, begin: Callable[[int], Decoder]) -> None:
        self._name = name
        self._begin = begin
        self._member: Decoder | None = None
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the pieces that ``data`` completes, none of them empty."""
        for start in range(0, len(data), _WINDOW_BYTES):
            rest = data[start : start + _WINDOW_BYTES]
            while rest:
                member = self._member = self._member or self._begin(rest[0])
                if piece := self._decode(member, rest):
                    yield piece
                while member.pending:
                    if piece := self._decode(member, b""):
                        yield piece
                rest = b""
                if member.eof:
                    self._ended, self._member, rest = True, None, member.rest

    def _decode(self, member: Decoder, data: bytes) -> bytes:
        try:
            return member.decode(data)
        except Exception as error:  # noqa: BLE001  # each library has an error of its own
            message = f"the body cannot be decoded by its content coding {self._name}"
            raise _broken(f"{message} ({type(error).__name__})") from None

    def finish(self) -> None:
        if self._member is not None or not self._ended:
            raise _broken(f"the body ends before its content coding {self._name} does")


class BodyDecoder:
    """Undoes the codings of one body, of which at most ``max_bytes`` are taken."""

    def __init__(self, codings: Sequence[str], max_bytes: int) -> None:
        """``codings`` as :func:`codings_of` returns them."""
        self._layers = [_Layer(name, CODINGS[name]) for name in reversed(codings)]
        self._left = max_bytes
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the pieces that ``data`` completes, none empty, each of about 64 KiB at most.

        Raises ``JobError(UPSTREAM_ERROR)``: retryable for invalid data, not retryable for more
        than ``max_bytes``. Read the iterator to its end before the next call.
        """
        self._left -= len(data)
        if self._left < 0:
            # A coded body may be endless and decode to no text at all.
            message = f"the upstream sent more than {self._max_bytes} bytes, which is the limit"
            raise JobError(ErrorCode.UPSTREAM_ERROR, f"{message} (WORKER_MAX_TEXT_BYTES)")
        return _through(self._layers, data)

    def finish(self) -> None:
        """End the body. Raises ``JobError(UPSTREAM_ERROR)``, retryable, if it was cut."""
        for layer in self._layers:
            layer.finish()


def codings_of(content_encoding: Sequence[str]) -> list[str]:
    """Return the codings that the values of ``Content-Encoding`` name, in the order of their use.

    Empty for a plain body. Raises ``JobError(UPSTREAM_ERROR)`` for one that cannot be decoded.
    """
    names = [name.strip().lower() for value in content_encoding for name in value.split(",")]
    codings = [name for name in names if name and name != "identity"]
    for name in codings:
        if name not in CODINGS:
            message = (
                f"the upstream sent the content coding {name[:40]!a}, which this worker cannot"
            )
            raise _broken(f"{message} decode; supported: {', '.join(CODINGS)}")
    if len(codings) > _MOST_CODINGS:
        raise _broken(f"the upstream sent a body with {len(codings)} content codings")
    return codings


def _through(layers: Sequence[_Layer], data: bytes) -> Iterator[bytes]:
    if not layers:
        yield data
        return
    for piece in layers[0].feed(data):
        yield from _through(layers[1:], piece)


def _broken(message: str) -> JobError:
    return JobError(ErrorCode.UPSTREAM_ERROR, message, retryable=True)
