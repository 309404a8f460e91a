"""Errors contain the message of the upstream in all formats that it uses."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Report
from tests.support.raw_upstream import LOGIN, Answer, raw_upstream

pytestmark = pytest.mark.contract

PAGE = """<!DOCTYPE html>
<html><head><title>502 Bad Gateway</title><style>h1 { color: red }</style></head>
<body>\x1b[31m<h1>The gatewäy is busy</h1>
<p>You asked: %s, by %s.</p></body></html>
"""
PRETTY = json.dumps({"error": {"message": "the model is busy", "code": 7}}, indent=2)
PROMPT = "a prompt that should not be repeated"


def answers(
    *pieces: bytes,
    status: str = "200 OK",
    headers: str = "",
    pause_s: float = 0.0,
    end: bool = True,
) -> Answer:
    """Return an answer that writes ``pieces``, without a length, and closes the connection."""

    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        writer.write(f"HTTP/1.1 {status}\r\n{headers}\r\n".encode())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if not end:
            await asyncio.sleep(60)
        writer.close()

    return answer


async def error_of(answer: Answer, prompt: str = PROMPT, **environ: str) -> JobError:
    async with raw_upstream(answer, **environ) as read, asyncio.timeout(20):
        found = await read(prompt)
    assert found.text == ""
    assert found.error is not None
    message = found.error.message
    assert message.isprintable()
    assert len(message) < 300
    for hidden in ("p4ssw0rd", "a-token", PROMPT[:20], PROMPT[-20:], "<", "color"):
        assert hidden not in message
    return found.error


@pytest.mark.parametrize("pause_s", [0, 0.01])
@pytest.mark.parametrize("size", [1_000_000, 40])
async def test_page_in_place_of_a_reply_is_a_bad_chunk_with_its_words(
    size: int, pause_s: float
) -> None:
    page = (PAGE % (PROMPT, "p4ssw0rd")).encode()
    pieces = [page[place : place + size] for place in range(0, len(page), size)]
    error = await error_of(answers(*pieces, pause_s=pause_s))
    assert (error.code, error.retryable) == (ErrorCode.BAD_CHUNK, False)
    assert "502 Bad Gateway The gatewäy is busy You asked: [hidden], by [hidden]" in error.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (PRETTY, "the model is busy"),
        (f"\r\n\n{PRETTY}\n", "the model is busy"),
        (PRETTY.replace("\n", "\r\n"), "the model is busy"),
        (json.dumps([{"error": "busy"}], indent=1), "busy"),
        ('"busy"', "busy"),
        ("event: error\ndata: {}\n\n", "event: error data: {}"),
        ("Internal Server Error", "Internal Server Error"),
        ('<?xml version="1.0"?>\n<Error>\n<Code>SlowDown</Code></Error>', "SlowDown"),
    ],
)
async def test_error_body_of_any_shape_is_shown(body: str, said: str) -> None:
    error = await error_of(answers(body.encode()))
    assert error.code is ErrorCode.BAD_CHUNK
    assert said in error.message


async def test_chunks_before_an_error_are_delivered_and_its_body_is_awaited_shortly() -> None:
    first = b'{"content": "one "}\n{\n'
    async with raw_upstream(answers(first, b'"error": "busy"\n', end=False)) as read:
        async with asyncio.timeout(10):
            found = await read()
    assert found.text == "one "
    assert found.error is not None
    assert found.error.code is ErrorCode.BAD_CHUNK
    assert 'content: { "error": "busy"' in found.error.message


PLAIN = PAGE % (PROMPT, "p4ssw0rd")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("", PLAIN.encode()),
        ("Content-Type: text/html; charset=ISO-8859-1\r\n", PLAIN.encode("latin-1")),
        ("Content-Type: text/html; charset=utf-16\r\n", PLAIN.encode("utf-16")),
        ("", PLAIN.encode("utf-8-sig")),
        ('Content-Type: text/html; charset="unicode_escape"\r\n', PLAIN.encode()),
        ("Content-Type: text/html; charset=hex\r\n", PLAIN.encode()),
        ("Content-Type: text/html; charset=nonsense\r\n", PLAIN.encode()),
        ("Content-Type: text/html; x*\r\n", PLAIN.encode()),
        ("Content-Encoding: gzip\r\n", gzip.compress(PLAIN.encode())),
        ("Content-Encoding: deflate, GZIP\r\n", gzip.compress(zlib.compress(PLAIN.encode()))),
        ("Content-Encoding: gzip\r\n", gzip.compress(PLAIN.encode())[:-6]),
        ("", PLAIN.encode() + b" " * 3_000_000),
        ("Content-Encoding: gzip\r\n", gzip.compress(PLAIN.encode() + b" " * 3_000_000)),
        ("Content-Length: 100000\r\n", PLAIN.encode()),
    ],
)
@pytest.mark.parametrize("status", ["503 Service Unavailable", "200 OK"])
async def test_words_are_read_in_every_charset_and_coding(
    status: str, headers: str, body: bytes
) -> None:
    error = await error_of(answers(body, status=status, headers=headers))
    assert "gatewäy is busy" in error.message
    expected = (503, ErrorCode.UPSTREAM_ERROR) if "503" in status else (None, ErrorCode.BAD_CHUNK)
    assert (error.upstream_status, error.code) == expected


@pytest.mark.parametrize("headers", ["Content-Encoding: rot13\r\n", "Content-Encoding: gzip\r\n"])
async def test_status_counts_even_if_its_body_cannot_be_decoded(headers: str) -> None:
    answer = answers(b"??", status="429 Too Many", headers=headers + "Retry-After: 7\r\n")
    error = await error_of(answer)
    assert (error.code, error.retry_after_s) == (ErrorCode.RATE_LIMITED, 7.0)


async def test_error_that_is_a_bomb_is_never_held_in_memory() -> None:
    bomb = gzip.compress(b"0" * 100_000_000)
    tracemalloc.start()
    try:
        await error_of(answers(bomb, status="500 Oops", headers="Content-Encoding: gzip\r\n"))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10_000_000


@pytest.mark.parametrize("quiet", [b"\n", b"\r\n", b'{"content": ""}\n', b" "])
async def test_line_without_text_is_a_sign_of_life(quiet: bytes) -> None:
    signs = 0

    def alive() -> None:
        nonlocal signs
        signs += 1

    answer = answers(quiet, quiet, b'{"content": "a"}\n', quiet, pause_s=0.05)
    async with raw_upstream(answer) as read, asyncio.timeout(10):
        found = await read(report=Report(alive=alive))
    assert found.error is None
    assert found.text == "a"
    assert signs == 3


def login(body: bytes, coding: str, *, length: int | None = None) -> Answer:
    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        announced = len(body) if length is None else length
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n"
            f"Content-Length: {announced}\r\n\r\n".encode()
        )
        writer.write(body)
        await writer.drain()
        if announced > len(body):
            writer.close()

    return answer


TOKEN = LOGIN.partition(b"\r\n\r\n")[2]
ENCODE: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("Deflate", zlib.compress),
    ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
    ("identity", bytes),
]


@pytest.mark.parametrize(("coding", "encode"), ENCODE, ids=[name for name, _ in ENCODE])
async def test_login_is_decoded_like_a_reply_and_a_cut_one_fails(
    coding: str, encode: Callable[[bytes], bytes]
) -> None:
    body = encode(TOKEN)
    hello = answers(b'{"content": "hello"}\n')

    async def read_with(answer: Answer) -> tuple[str, JobError | None]:
        async with raw_upstream(hello, answer) as read, asyncio.timeout(10):
            found = await read()
            return found.text, found.error

    assert await read_with(login(body, coding)) == ("hello", None)
    cut: list[Awaitable[tuple[str, JobError | None]]] = [
        read_with(login(body[:end], coding, length=length))
        for end in (0, 1, len(body) // 2, len(body) - 1)
        for length in (end, len(body))
    ]
    for text, error in await asyncio.gather(*cut):
        assert text == ""
        assert error is not None
        assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)
