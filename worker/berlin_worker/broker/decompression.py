"""Compressed messages, up to a size: a few bytes may stand for gigabytes.

kombu decompresses a body before anybody could refuse it, and has no limit of its own.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Final

from kombu import compression

from berlin_schemas.jobs import MAX_JOB_BYTES

_MOST_BYTES: Final = 6 * MAX_JOB_BYTES + 64 * 1024
"""A job of the greatest size in ASCII, where a byte may be written as six (``\\u0000``)."""
_LZMA_BYTES: Final = 64 * 1024 * 1024
"""For its dictionary; one of 8 MiB is what its default level makes."""


class BodyTooLarge(ValueError):
    """A body is longer than any job, or is cut off."""


def install() -> None:
    """Let kombu decompress by the decoders of this module, and by no others."""
    compression._decoders.clear()  # noqa: SLF001  # kombu 5.7 offers no other way
    for alias, make in _DECODERS.items():
        encoder, content_type = compression.get_encoder(alias)  # type: ignore[no-untyped-call]
        compression.register(encoder, _bounded(make), content_type)  # type: ignore[no-untyped-call]


def _bounded(make: Callable[[], Any]) -> Callable[[bytes], bytes]:
    def decompress(data: bytes) -> bytes:
        decoder = make()
        body: bytes = decoder.decompress(data, _MOST_BYTES)
        if not decoder.eof:
            raise BodyTooLarge(f"not whole within {_MOST_BYTES} bytes")
        return body

    return decompress


_DECODERS: Final[dict[str, Callable[[], Any]]] = {
    "gzip": zlib.decompressobj,  # kombu's gzip is zlib's format
    "bzip2": bz2.BZ2Decompressor,
    "lzma": lambda: lzma.LZMADecompressor(memlimit=_LZMA_BYTES),
}
