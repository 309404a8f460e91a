"""A reply that is cut is no end: every framing, every coding, over a raw socket."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator

import pytest

from berlin_schemas import ErrorCode
from tests.support.framings import FRAMINGS, Framing, chunked, write
from tests.support.raw_upstream import Read, raw_upstream

pytestmark = pytest.mark.contract

WORDS = [f"wört{number} " for number in range(12)]
LINES = [json.dumps({"content": word}, ensure_ascii=False).encode() + b"\n" for word in WORDS]
PLAIN = b"".join(LINES)
BEGINNINGS = {"".join(WORDS[:count]) for count in range(len(WORDS) + 1)}


def streamed(wbits: int) -> bytes:
    deflate = zlib.compressobj(wbits=wbits)
    sent = [deflate.compress(line) + deflate.flush(zlib.Z_SYNC_FLUSH) for line in LINES]
    return b"".join(sent) + deflate.flush()


BODIES = {
    "": PLAIN,
    "identity": PLAIN,
    "gzip": streamed(31),
    "X-GZip": streamed(31),
    "deflate": streamed(15),
    "Deflate": streamed(-15),
    "deflate, gzip": gzip.compress(streamed(15)),
}


def is_whole(coding: str, sent: bytes, framing: Framing) -> bool:
    """Return whether ``sent`` looks complete: the rules written a second time, naively."""
    if not framing.is_sound:
        return False
    if coding in {"", "identity"}:
        last = sent.rpartition(b"\n")[2]
        return not last or last.endswith(b"}")
    return sent == BODIES[coding]


def cuts(coding: str) -> Iterator[int]:
    length = len(BODIES[coding])
    line = BODIES[coding].find(b"\n", length // 2) if coding in {"", "identity"} else 40
    umlaut = BODIES[coding].find("ö".encode()) + 1
    return iter(
        sorted({0, 1, 12, umlaut, length // 2, line, line + 1, *range(length - 9, length + 1)})
    )


@pytest.mark.parametrize("coding", BODIES)
@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=list(FRAMINGS))
async def test_only_a_whole_reply_is_completed(framing: Framing, coding: str) -> None:
    async def answer(writer: asyncio.StreamWriter, body: bytes) -> None:
        sent = BODIES[coding][: int(json.loads(body)["prompt"])]
        await write(writer, framing, sent, coding)

    async with raw_upstream(answer) as read, asyncio.timeout(20):
        await read("0")  # logs in
        places = list(cuts(coding))
        for place, found in zip(
            places, await asyncio.gather(*(read(str(place)) for place in places)), strict=True
        ):
            sent = BODIES[coding][:place]
            check(found, is_whole(coding, sent, framing), f"{place} of {len(BODIES[coding])}")


def check(found: Read, whole: bool, place: str) -> None:
    assert found.text in BEGINNINGS, place
    if whole:
        assert found.error is None, place
    else:
        assert found.error is not None, place
        assert (found.error.code, found.error.retryable) == (ErrorCode.UPSTREAM_ERROR, True), place


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Transfer-Encoding: gzip, chunked\r\n", chunked(gzip.compress(PLAIN))),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", chunked(BODIES["gzip"])),
        (
            b"Content-Encoding: deflate\r\nTransfer-Encoding: GZIP, Chunked\r\n",
            chunked(BODIES["deflate, gzip"]),
        ),
        (b"Content-Encoding: deflate\r\nContent-Encoding: gzip\r\n", BODIES["deflate, gzip"]),
        (b"Transfer-Encoding: gzip\r\n", BODIES["gzip"]),
    ],
)
async def test_codings_may_be_of_the_transfer_and_in_several_headers(
    headers: bytes, body: bytes
) -> None:
    async def answer(writer: asyncio.StreamWriter, asked: bytes) -> None:
        is_cut = json.loads(asked)["prompt"] == "cut"
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (headers, body[:-12] if is_cut else body))
        await writer.drain()
        writer.close()

    async with raw_upstream(answer) as read, asyncio.timeout(20):
        check(await read("cut"), whole=False, place=headers.decode())
        found = await read("whole")
    check(found, whole=True, place=headers.decode())
    assert found.text == "".join(WORDS)
