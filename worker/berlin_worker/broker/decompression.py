"""Decompress message bodies up to a limit: a few bytes may expand to gigabytes.

kombu decompresses a body before any of our code could refuse it, and has no limit of its own.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Final

from kombu import compression

from berlin_schemas.jobs import MAX_JOB_BYTES

_LZMA_BYTES: Final = 64 * 1024 * 1024
"""The memory limit of a decoder; the default level needs a dictionary of 8 MiB."""


class BodyTooLarge(ValueError):
    """A decompressed body that is longer than any job, or is incomplete."""


def install(max_job_bytes: int = MAX_JOB_BYTES) -> None:
    """Replace all decoders of kombu by those of this module.

    Their limit is the largest job as ASCII JSON, in which one byte may be written as six
    (``\\u0000``).
    """
    most_bytes = _most_bytes(max_job_bytes)
    compression._decoders.clear()  # noqa: SLF001  # kombu 5.7 has no public call
    for alias, make in _DECODERS.items():
        encoder, content_type = compression.get_encoder(alias)  # type: ignore[no-untyped-call]  # kombu 5.7 is typed in part only
        compression.register(encoder, _bounded(make, most_bytes), content_type)  # type: ignore[no-untyped-call]  # kombu 5.7 is typed in part only


def decompress(body: bytes, name: str, max_job_bytes: int) -> bytes:
    """Decompress one body as the installed decoders do; ``name`` is a name that kombu knows.

    Raises :class:`BodyTooLarge`, ``KeyError`` for any other name, and the errors of the decoder.
    """
    known = {compression.get_encoder(alias)[1]: alias for alias in _DECODERS}  # type: ignore[no-untyped-call]  # kombu 5.7 is typed in part only
    make = _DECODERS[known[compression.get_encoder(name)[1]]]  # type: ignore[no-untyped-call]  # kombu 5.7 is typed in part only
    return _bounded(make, _most_bytes(max_job_bytes))(body)


def _most_bytes(max_job_bytes: int) -> int:
    return 6 * max_job_bytes + 64 * 1024


def _bounded(make: Callable[[], Any], most_bytes: int) -> Callable[[bytes], bytes]:
    def decompress(data: bytes) -> bytes:
        decoder = make()
        body: bytes = decoder.decompress(data, most_bytes)
        if not decoder.eof:
            raise BodyTooLarge(f"the body does not end within {most_bytes} bytes")
        return body

    return decompress


_DECODERS: Final[dict[str, Callable[[], Any]]] = {
    "gzip": zlib.decompressobj,  # kombu's gzip is zlib's format
    "bzip2": bz2.BZ2Decompressor,
    "lzma": lambda: lzma.LZMADecompressor(memlimit=_LZMA_BYTES),
}
