"""Decompression of message bodies, up to the size of the largest job."""

import bz2
import lzma
import zlib

import pytest
from kombu import compression

from berlin_schemas.jobs import MAX_JOB_BYTES
from berlin_worker.broker import decompression

pytestmark = pytest.mark.unit

COMPRESS = {"gzip": zlib.compress, "bzip2": bz2.compress, "lzma": lzma.compress}
METHODS = sorted(COMPRESS)
LARGEST = b" " * 6 * MAX_JOB_BYTES
"""As long as the largest job if each of its bytes is escaped; spaces compress 50 times as fast."""


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr(compression, "_decoders", {})
    monkeypatch.setattr(compression, "_encoders", dict(compression._encoders))
    decompression.install()


def test_other_compressions_are_refused():
    assert len(compression._decoders) == len(METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", [b"", b"[[], {}, {}]", LARGEST])
def test_body_compressed_by_kombu_is_decompressed(method, body):
    data, content_type = compression.compress(body, method)
    assert compression.decompress(data, content_type) == body


@pytest.mark.parametrize("method", METHODS)
def test_too_long_or_incomplete_body_is_an_error(method):
    bomb = COMPRESS[method](b" " * (8 * MAX_JOB_BYTES))
    whole = COMPRESS[method](b"a body that is whole")
    for data in (bomb, whole[:-5], whole[:3], b""):
        with pytest.raises(decompression.BodyTooLarge):
            compression.decompress(data, method)


@pytest.mark.parametrize("method", METHODS)
def test_limit_follows_the_largest_job(method):
    decompression.install(2 * MAX_JOB_BYTES)
    data, content_type = compression.compress(2 * LARGEST, method)
    assert len(compression.decompress(data, content_type)) == 12 * MAX_JOB_BYTES


def test_dictionary_above_the_memory_limit_is_an_error():
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 * 1024 * 1024}]
    data = lzma.compress(b"small", filters=filters)
    with pytest.raises(lzma.LZMAError):
        compression.decompress(data, "lzma")
