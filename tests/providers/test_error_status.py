"""An error status that was received counts, however broken the rest of the reply is."""

import asyncio
import gzip
import itertools
import json
import random

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.response import ReceivedHead, parse_head
from tests.support.raw_upstream import Answer, raw_upstream, reset

pytestmark = pytest.mark.contract

PAGE = b'{"error": "too many calls of this kind"}'
PACKED = gzip.compress(PAGE)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
# What follows the status line and Retry-After, by what is wrong with it.
FAULTS = {
    "none": b"Content-Length: 40\r\n\r\n" + PAGE,
    "no length": b"\r\n" + PAGE,
    "length is no number": b"Content-Length: many\r\n\r\n" + PAGE,
    "length below zero": b"Content-Length: -1\r\n\r\n" + PAGE,
    "length with a plus": b"Content-Length: +40\r\n\r\n" + PAGE,
    "length is empty": b"Content-Length:\r\n\r\n" + PAGE,
    "length twice": b"Content-Length: 40\r\nContent-Length: 41\r\n\r\n" + PAGE,
    "length and chunks": b"Content-Length: 40\r\n" + CHUNKED + b"28\r\n" + PAGE + b"\r\n0\r\n\r\n",
    "length too long": b"Content-Length: 400\r\n\r\n" + PAGE,
    "chunk size": CHUNKED + b"zz\r\n" + PAGE,
    "second chunk size": CHUNKED + b"28\r\n" + PAGE + b"\r\nzz\r\n",
    "chunk without end": CHUNKED + b"28\r\n" + PAGE + b"0\r\n\r\n",
    "chunks cut": CHUNKED + b"28\r\n" + PAGE[:20],
    "chunk size too large": CHUNKED + b"f" * 40 + b"\r\n",
    "trailer": CHUNKED + b"28\r\n" + PAGE + b"\r\n0\r\nno trailer\r\n\r\n",
    "gzip cut": b"Content-Encoding: gzip\r\n\r\n" + PACKED[:-9],
    "no gzip": b"Content-Encoding: gzip\r\nContent-Length: 40\r\n\r\n" + PAGE,
    "no deflate": b"Content-Encoding: deflate\r\n" + CHUNKED + b"28\r\n" + PAGE + b"\r\n",
    "unknown coding": b"Content-Encoding: lzma\r\nContent-Length: 40\r\n\r\n" + PAGE,
    "gzip in bad chunks": b"Content-Encoding: gzip\r\n" + CHUNKED + b"\r\n",
    "unknown transfer coding": b"Transfer-Encoding: lzma\r\n\r\n" + PAGE,
    "charset": b"Content-Type: text/html; charset=\x00\r\n\r\n" + PAGE,
    "no colon": b"Server\r\n\r\n" + PAGE,
    "header with NUL": b"Server: a\x00b\r\n\r\n" + PAGE,
    "header name with a space": b"Ser ver: a\r\n\r\n" + PAGE,
    "header too long": b"Server: %b\r\n\r\n" % (b"a" * 20_000) + PAGE,
    "too many headers": b"X: y\r\n" * 500 + b"\r\n" + PAGE,
    "head without end": b"Server: a\r\nDat",
    "head of one line": b"",
}
PACKETS = ["one", "two", "many"]
ENDS = ["close", "reset"]
MEANING = {
    401: (ErrorCode.AUTH_FAILED, False, None),
    403: (ErrorCode.AUTH_FAILED, False, None),
    429: (ErrorCode.RATE_LIMITED, True, 7.0),
    503: (ErrorCode.UPSTREAM_ERROR, True, 7.0),
}


def answering(head: bytes, rest: bytes, packets: str, end: str) -> Answer:
    async def answer(writer: asyncio.StreamWriter, body: bytes) -> None:
        pieces = {
            "one": [head + rest],
            "two": [head, rest],
            "many": [(head + rest)[at : at + 9] for at in range(0, len(head + rest), 9)][:150],
        }[packets]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if end == "close":
            writer.close()
        else:
            await asyncio.sleep(0.02)  # a reset throws away what the reader has not taken yet
            reset(writer)

    return answer


def described(error: JobError | None) -> tuple[object, ...]:
    assert error is not None
    return error.code, error.retryable, error.upstream_status, error.retry_after_s


async def refused(call: str, answer: Answer) -> JobError | None:
    calls = {"complete": answer} if call == "completion" else {"complete": answer, "login": answer}
    async with raw_upstream(**calls) as read, asyncio.timeout(20):
        found = await read("Hello")
    assert found.text == ""
    assert "lzma" not in str(found.error)
    return found.error


@pytest.mark.parametrize("call", ["login", "completion"])
@pytest.mark.parametrize("status", MEANING)
async def test_status_outlives_a_broken_reply(status: int, call: str) -> None:
    code, retryable, wait_s = MEANING[status]
    head = b"HTTP/1.1 %d Whatever\r\nConnection: close\r\nRetry-After: 7\r\n" % status
    cases = [*itertools.product(FAULTS, PACKETS, ENDS)]
    answers = [answering(head, FAULTS[fault], packets, end) for fault, packets, end in cases]
    errors = await asyncio.gather(*(refused(call, answer) for answer in answers))
    for case, error in zip(cases, errors, strict=True):
        found = described(error)
        # A login's own back-off may be longer than the one of the upstream, and never shorter.
        if call == "login":
            assert found[:3] == (code, retryable, status), case
            assert ((error and error.retry_after_s) or 0) >= (wait_s or 0) - 1, case
        else:
            assert found == (code, retryable, status, wait_s), case


async def test_broken_401_is_replayed_once_with_a_new_token() -> None:
    logins = 0

    async def login(writer: asyncio.StreamWriter, body: bytes) -> None:
        nonlocal logins
        logins += 1
        answer = b'{"data":{"token":"token-%d"}}' % logins
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

    async def complete(writer: asyncio.StreamWriter, body: bytes) -> None:
        if logins == 1:
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: none\r\n\r\n")
        else:
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"content":"yes"}')

    async with raw_upstream(complete, login) as read, asyncio.timeout(20):
        found = await read()
    assert (found.text, found.error, logins) == ("yes", None, 2)


@pytest.mark.parametrize("fault", ["length is no number", "chunk size", "no colon"])
async def test_broken_success_has_no_status(fault: str) -> None:
    answer = answering(b"HTTP/1.1 200 OK\r\n", FAULTS[fault], "one", "close")
    error = await refused("completion", answer)
    assert described(error) == (ErrorCode.UPSTREAM_ERROR, True, None, None)


async def test_interim_replies_do_not_hide_the_status() -> None:
    head = (
        b"HTTP/1.1 103 Early Hints\r\nRetry-After: 99\r\n\r\nHTTP/1.1 429 No\r\nRetry-After: 7\r\n"
    )
    error = await refused(
        "completion", answering(head, FAULTS["length is no number"], "one", "close")
    )
    assert described(error) == (ErrorCode.RATE_LIMITED, True, 429, 7.0)


async def test_status_of_a_login_outlives_a_missing_body() -> None:
    async def answer(writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 40\r\n\r\n" + PAGE[:30])
        await asyncio.sleep(60)

    async with (
        raw_upstream(answer, answer, WORKER_LOGIN_TIMEOUT_S="0.3") as read,
        asyncio.timeout(20),
    ):
        found = await read()
    assert described(found.error)[:3] == (ErrorCode.AUTH_FAILED, False, 403)


@pytest.mark.parametrize("cut", range(55))
def test_head_is_read_as_far_as_it_was_received(cut: int) -> None:
    head = b"HTTP/1.1 429 Slow\r\nServer: x\r\nRetry-After: 120\r\n\r\nRetry-After: 9\r\n"
    found = parse_head(head[:cut])
    if cut < len(b"HTTP/1.1 429 "):
        assert found is None
    else:
        complete = cut >= len(b"HTTP/1.1 429 Slow\r\nServer: x\r\nRetry-After: 120\r\n")
        assert found == ReceivedHead(429, "120" if complete else None)


def test_invalid_head_has_no_status() -> None:
    chosen = random.Random(7)
    for _ in range(2000):
        data = bytes(chosen.choices(b"HTP/1. 0249\r\n:x", k=chosen.randrange(40)))
        found = parse_head(data)
        assert found is None or 200 <= found.status <= 999
    assert parse_head(json.dumps({"HTTP/1.1 429 ": 1}).encode()) is None
