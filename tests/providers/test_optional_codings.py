"""Codings whose library may be missing: which module is used, and how."""

import zlib
from types import SimpleNamespace

import pytest

from berlin_worker.providers import codings
from berlin_worker.providers.codings import PIECE_BYTES

pytestmark = pytest.mark.unit


class FakeDecompressor:
    """A decompressor of Brotli or Zstandard, over zlib: a process may have neither library."""

    def __init__(self):
        self._zlib = zlib.decompressobj()

    def decompress(self, data, max_length):
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)

    def process(self, data, output_buffer_limit):
        return self.decompress(data, output_buffer_limit)

    def is_finished(self):
        return self.eof

    def can_accept_more_data(self):
        return self.needs_input

    @property
    def eof(self):
        return self._zlib.eof

    @property
    def unused_data(self):
        return self._zlib.unused_data

    @property
    def needs_input(self):
        return not self._zlib.unconsumed_tail and not self._zlib.eof


@pytest.mark.parametrize(("name", "rest"), [("br", b""), ("zstd", b"after")])
def test_optional_library_is_used_piece_by_piece(monkeypatch, name, rest):
    library = SimpleNamespace(Decompressor=FakeDecompressor, ZstdDecompressor=FakeDecompressor)
    monkeypatch.setattr(codings, "_first_of", lambda *_: library)
    member, body = codings._found()[name](0), b"x" * 3 * PIECE_BYTES + b"end"
    pieces = [member.decode(zlib.compress(body) + rest)]
    while member.pending:
        pieces.append(member.decode(b""))
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert (member.eof, member.rest) == (True, rest)


def test_library_that_cannot_bound_its_output_is_not_used(monkeypatch):
    old = SimpleNamespace(Decompressor=object)
    monkeypatch.setattr(codings, "_first_of", lambda name, *_: old if "brotli" in name else None)
    assert sorted(codings._found()) == ["deflate", "gzip", "x-gzip"]


def test_first_module_that_is_installed_is_taken():
    assert codings._first_of("no_such_module", "zlib") is zlib
    assert codings._first_of("no_such_module") is None
