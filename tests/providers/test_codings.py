"""A coded body, cut anywhere, is decoded whole or reported as incomplete."""

import gzip
import itertools
import zlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers import codings
from berlin_worker.providers.codings import (
    ACCEPT_ENCODING,
    CODINGS,
    PIECE_BYTES,
    BodyDecoder,
    codings_of,
)

pytestmark = pytest.mark.unit

Encode = Callable[[bytes], bytes]


def raw_deflate(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


def flushed(wbits: int) -> Encode:
    """Return an encoder that flushes after each line, as servers do that stream."""

    def encode(data: bytes) -> bytes:
        deflate = zlib.compressobj(wbits=wbits)
        pieces = [
            deflate.compress(line) + deflate.flush(zlib.Z_SYNC_FLUSH)
            for line in data.splitlines(keepends=True)
        ]
        return b"".join(pieces) + deflate.flush()

    return encode


def encoders() -> Mapping[str, tuple[str, Encode]]:
    """Return each coding and its encoder, by a name for the test."""
    found: dict[str, tuple[str, Encode]] = {
        "gzip": ("gzip", gzip.compress),
        "gzip, flushed": ("GZip", flushed(31)),
        "gzip, stored": ("gzip", lambda data: gzip.compress(data, 0)),
        "x-gzip": ("x-gzip", gzip.compress),
        "zlib": ("deflate", zlib.compress),
        "zlib, flushed": ("Deflate", flushed(15)),
        "raw deflate": ("deflate", raw_deflate),
        "raw deflate, flushed": ("deflate", flushed(-15)),
        "deflate in gzip": ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
        "gzip thrice": (
            "gzip,, x-gzip ,identity, GZIP",
            lambda data: gzip.compress(gzip.compress(gzip.compress(data))),
        ),
    }
    brotli, zstd = (
        codings._first_of("brotlicffi", "brotli"),
        codings._first_of("compression.zstd", "backports.zstd"),
    )
    if "br" in CODINGS:
        found["br"] = ("br", lambda data: bytes(brotli.compress(data)))
        found["br in gzip"] = ("br, gzip", lambda data: gzip.compress(brotli.compress(data)))
    if "zstd" in CODINGS:
        found["zstd"] = ("zstd", lambda data: bytes(zstd.compress(data)))
    return found


ENCODERS = encoders()
every_coding = pytest.mark.parametrize(("name", "encode"), ENCODERS.values(), ids=list(ENCODERS))
some_coding = st.sampled_from(list(ENCODERS.values()))
TEXT = b"".join(b'{"content": "word%d "}\n' % number for number in range(30))


def decode(
    name: str, pieces: list[bytes], max_bytes: int = 1 << 24
) -> tuple[bytes, JobError | None]:
    """Return the decoded bytes until the end or the error, and the error."""
    found = bytearray()
    try:
        decoder = BodyDecoder(codings_of([name]), max_bytes)
        for data in pieces:
            for piece in decoder.feed(data):
                assert piece
                found += piece
        decoder.finish()
    except JobError as error:
        return bytes(found), error
    return bytes(found), None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def singly(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


@every_coding
def test_body_cut_at_any_byte_is_a_retryable_upstream_error(name: str, encode: Encode) -> None:
    data = encode(TEXT)
    for end in range(len(data)):
        for pieces in ([data[:end]], singly(data[:end])):
            found, error = decode(name, pieces)
            assert error is not None, f"cut at {end} of {len(data)}"
            assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)
            assert TEXT.startswith(found)


@given(some_coding, st.binary(), st.lists(st.integers(min_value=0)))
def test_any_data_in_any_pieces_is_decoded_whole(
    coding: tuple[str, Encode], data: bytes, places: list[int]
) -> None:
    name, encode = coding
    assert decode(name, cut(encode(data), places)) == (data, None)


@every_coding
@pytest.mark.parametrize("size", [PIECE_BYTES, 2 * PIECE_BYTES, 3_000_001])
def test_large_bodies_are_decoded_whole_in_bounded_pieces(
    name: str, encode: Encode, size: int
) -> None:
    data = encode(b"0" * size)
    decoder = BodyDecoder(codings_of([name]), 1 << 24)
    pieces = list(decoder.feed(data))
    decoder.finish()
    assert sum(map(len, pieces)) == size
    assert max(map(len, pieces)) <= 2 * PIECE_BYTES  # Brotli may exceed its limit


@pytest.mark.parametrize("name", [name for name in CODINGS if name != "br"])
@pytest.mark.parametrize("split", [list, singly], ids=["at once", "byte by byte"])
def test_all_members_are_read(name: str, split: Callable[[bytes], Any]) -> None:
    encode = next(encode for coding, encode in ENCODERS.values() if coding == name)
    data = b"".join(encode(line) for line in TEXT.splitlines(keepends=True)) + encode(b"")
    pieces = singly(data) if split is singly else [data]
    assert decode(name, pieces) == (TEXT, None)
    assert decode(name, [data[:-1]])[1] is not None


@given(
    st.lists(st.sampled_from([b"", b"a", b"b" * 5000]), min_size=1, max_size=5),
    st.lists(st.integers(min_value=0)),
)
def test_members_may_be_split_anywhere(members: list[bytes], places: list[int]) -> None:
    data = b"".join(map(gzip.compress, members))
    assert decode("gzip", cut(data, places)) == (b"".join(members), None)


@every_coding
@pytest.mark.parametrize("garbage", [b"\0", b"xyz", b"\x1f", b'{"content": "more"}\n'])
def test_garbage_after_the_end_is_an_upstream_error(
    name: str, encode: Encode, garbage: bytes
) -> None:
    data = encode(TEXT)
    for pieces in ([data + garbage], [data, garbage]):
        _, error = decode(name, pieces)
        assert error is not None
        assert error.retryable


@every_coding
def test_flipped_bits_never_become_text(name: str, encode: Encode) -> None:
    data = bytearray(encode(TEXT))
    has_checksum = "raw" not in next(key for key, row in ENCODERS.items() if row[1] is encode)
    for place in range(0, len(data), 3):
        data[place] ^= 0x10
        found, error = decode(name, [bytes(data)])
        data[place] ^= 0x10
        # Raw deflate and Brotli have no checksum; a gzip header has bytes that mean nothing.
        if has_checksum and name not in {"br", "br, gzip", "zstd"}:
            assert error is not None or found == TEXT


@given(some_coding, st.lists(st.binary(max_size=50), max_size=4), st.binary(max_size=8))
def test_no_bytes_raise_anything_but_a_job_error(
    coding: tuple[str, Encode], pieces: list[bytes], data: bytes
) -> None:
    name, encode = coding
    _, error = decode(name, [encode(data), *pieces])
    assert error is None or error.code is ErrorCode.UPSTREAM_ERROR
    decode(name, pieces)


def test_wrong_checksum_is_an_upstream_error() -> None:
    data = gzip.compress(TEXT)
    for place in range(1, 9):  # CRC and length
        broken = bytearray(data)
        broken[-place] ^= 1
        _, error = decode("gzip", [bytes(broken)])
        assert error is not None
        assert "gzip" in error.message
        assert error.retryable


@pytest.mark.parametrize("name", CODINGS)
def test_coded_body_without_a_byte_is_cut(name: str) -> None:
    _, error = decode(name, [])
    assert error is not None
    assert name in error.message


@pytest.mark.parametrize(
    "name", ["compress", "gzip;q=1", "gzip, lzma", "x" * 1000, "\x1b[31m", "ğzip"]
)
def test_unknown_coding_is_named_and_an_upstream_error(name: str) -> None:
    with pytest.raises(JobError, match="content coding") as caught:
        codings_of([name])
    assert caught.value.code is ErrorCode.UPSTREAM_ERROR
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


def test_codings_of_several_headers_are_one_list() -> None:
    assert codings_of([]) == codings_of(["", " , identity", "IDENTITY"]) == []
    assert codings_of([" GZip ", "x-gzip,deflate"]) == ["gzip", "x-gzip", "deflate"]
    with pytest.raises(JobError):
        codings_of(["gzip"] * 20)


def test_coded_bytes_that_bring_no_text_are_bounded() -> None:
    _, error = decode("gzip", [gzip.compress(b"")] * 1000, max_bytes=1000)
    assert error is not None
    assert not error.retryable
    assert "WORKER_MAX_TEXT_BYTES" in error.message


def test_accept_encoding_has_only_decodable_codings() -> None:
    offered = ACCEPT_ENCODING.split(", ")
    assert set(offered) <= set(CODINGS)
    assert offered == ["gzip", "deflate", *(["br"] if "br" in CODINGS else [])]


@pytest.mark.parametrize("old", [{}, {"Decompressor": type("Decompressor", (), {})}])
def test_brotli_that_cannot_bound_its_output_is_not_used(
    monkeypatch: pytest.MonkeyPatch, old: dict[str, Any]
) -> None:
    module = ModuleType("brotli")
    vars(module).update(old or {"Decompressor": None})
    monkeypatch.setattr(codings, "_first_of", lambda *names: module if "brotli" in names else None)
    assert "br" not in codings._found()
