"""An answer of chat completions that is cut is no end: every framing, coding and place."""

import asyncio
import gzip
import json
import zlib

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.providers.openai import OpenAIProvider
from tests.support.framings import FRAMINGS, Framing, write
from tests.support.raw_upstream import raw_upstream

pytestmark = pytest.mark.contract

WORDS = ["wört ", "zwei ", "drei "]


def event(delta: dict[str, str], reason: str | None = None) -> bytes:
    value = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\r\n\r\n"


EVENTS = [b": ping\n\n", *(event({"content": word}) for word in WORDS), event({}, "stop")]
REASON = b"".join(EVENTS)
PLAIN = REASON + b"data: [DONE]\n\n"
BEGINNINGS = ["".join(WORDS[:count]) for count in range(len(WORDS) + 1)]


def streamed(wbits: int) -> bytes:
    deflate = zlib.compressobj(wbits=wbits)
    sent = [deflate.compress(piece) + deflate.flush(zlib.Z_SYNC_FLUSH) for piece in EVENTS]
    return b"".join(sent) + deflate.compress(b"data: [DONE]\n\n") + deflate.flush()


BODIES = {
    "": PLAIN,
    "gzip": streamed(31),
    "deflate": streamed(15),
    "deflate, gzip": gzip.compress(streamed(15)),
}


@pytest.mark.parametrize("coding", BODIES)
@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=list(FRAMINGS))
async def test_only_a_whole_answer_is_completed(framing: Framing, coding: str) -> None:
    whole = BODIES[coding]

    async def answer(writer: asyncio.StreamWriter, body: bytes) -> None:
        place = int(json.loads(body)["messages"][0]["content"])
        await write(writer, framing, whole[:place], coding)

    # The reader's own tests cut at each byte. These test the ends of the protocol and of the body.
    places = [0, 1, 12, 40, len(whole) // 2, *range(len(whole) - 9, len(whole) + 1)]
    if not coding:
        places += [*range(0, len(REASON), 9), *range(len(REASON) - 9, len(whole))]
    async with raw_upstream(answer, kind=OpenAIProvider) as read, asyncio.timeout(60):
        for start in range(0, len(places), 40):
            some = places[start : start + 40]
            answers = await asyncio.gather(*(read(str(place)) for place in some))
            for place, found in zip(some, answers, strict=True):
                check(found.text, found.error, whole[:place], framing, coding)


def check(text: str, error: Exception | None, sent: bytes, framing: Framing, coding: str) -> None:
    """Check an answer by the rules, which are written here a second time, naively."""
    assert text in BEGINNINGS
    if not coding:
        # The last event needs no empty line; a carriage return alone ends a line, too.
        is_marked = len(sent) >= len(PLAIN) - 2 * framing.is_sound
        has_reason = len(sent) >= len(REASON) - 4
        assert (error is None) == (is_marked or (has_reason and framing.is_sound)), sent[-20:]
    elif sent == BODIES[coding] and framing.is_sound:
        assert error is None
    if error is None:
        assert text == "".join(WORDS)
    else:
        assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True), str(error)  # type: ignore[attr-defined]  # a JobError
