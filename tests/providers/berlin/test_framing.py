"""Replies of the Berlin upstream in any framing: cut, compressed, too large, broken."""

import asyncio
import tracemalloc
from typing import Any

import pytest
from aiohttp import web

from berlin_schemas import ErrorCode
from berlin_worker.embedded.replies import line
from berlin_worker.embedded.upstream import Upstream
from berlin_worker.providers.base import Services
from berlin_worker.providers.berlin.provider import BerlinProvider
from berlin_worker.providers.http import open_session
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings
from tests.support.berlin_provider import REPLY, Make, read, read_from
from tests.support.waiting import until

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("fault", ["drip:0", "gzip", "gzip]] [[drip:0", "delay:0.001"])
async def test_reply_does_not_depend_on_its_framing(berlin: BerlinProvider, fault: str) -> None:
    assert await read(berlin, f"[[{fault}]]") == (REPLY, None)


async def test_characters_may_be_cut_anywhere() -> None:
    text = "Grüße 😀 \u2028 \x85 \x0b \x1c ende"
    async with Upstream(reply=text) as upstream:
        settings = Settings.from_env(upstream.environ)
        async with open_session(settings) as session:
            provider = BerlinProvider(Services(session, LocalTokens(), settings, {}))
            assert await read(provider, "[[drip:0]]") == (text, None)


async def test_line_of_300_kb_and_one_without_newline_are_accepted() -> None:
    long = "x" * 300_000
    raw = line(long) + line("end").rstrip(b"\n")
    async with Upstream(reply=raw) as upstream:
        settings = Settings.from_env(upstream.environ)
        async with open_session(settings) as session:
            provider = BerlinProvider(Services(session, LocalTokens(), settings, {}))
            assert await read(provider) == (long + "end", None)


@pytest.mark.parametrize(
    ("prompt", "environ"),
    [
        ("[[endless]]", {"WORKER_MAX_CHUNKS": "100"}),
        ("[[endless]]", {"WORKER_MAX_TEXT_BYTES": "10000"}),
        ("[[drip:0]]", {"WORKER_MAX_LINE_BYTES": "10"}),
    ],
)
async def test_reply_over_the_limits_is_closed(
    upstream: Upstream, make: Make, prompt: str, environ: dict[str, str]
) -> None:
    _, error = await read(make(**environ), prompt)
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, False)
    assert next(iter(environ)) in error.message
    await until(lambda: upstream.open_streams == 0)


async def test_compressed_bomb_is_never_held_in_memory(berlin: BerlinProvider) -> None:
    tracemalloc.start()
    try:
        _, error = await read(berlin, "[[bomb:200]]")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error is not None
    assert "WORKER_MAX_LINE_BYTES" in error.message
    assert peak_bytes < 30_000_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_body_that_contradicts_its_content_encoding_is_an_upstream_error(
    encoding: str,
) -> None:
    async def lie(_: web.Request) -> web.Response:
        return web.Response(body=line("a"), headers={"Content-Encoding": encoding})

    _, error = await read_from(lie)
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)


@pytest.mark.parametrize("broken", [b"ZZ\r\nxx\r\n", b"F" * 40 + b"\r\n"])
@pytest.mark.parametrize("pause_s", [0, 0.1])
async def test_reply_whose_framing_breaks_ends_at_once(broken: bytes, pause_s: float) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(line("a"))
        await asyncio.sleep(pause_s)
        assert request.transport is not None
        request.transport.write(broken)
        await asyncio.sleep(60)
        return response

    async with asyncio.timeout(5):
        text, error = await read_from(breaks)
    assert text in {"a", ""}  # in one read with its head, such a body is no reply at all
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)


async def test_connection_keeps_nothing_of_earlier_replies(upstream: Upstream, make: Make) -> None:
    provider = make()
    for _ in range(5):
        assert await read(provider) == (REPLY, None)
    connector: Any = provider._account._session.connector
    [[(protocol, _)]] = connector._conns.values()
    assert len(protocol.closed._callbacks) == 1  # response._retrieve_error


async def test_bytes_that_are_no_http_are_an_upstream_error() -> None:
    async def garbage(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        request.transport.close()
        await asyncio.sleep(60)
        return web.Response()

    _, error = await read_from(garbage)
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)


async def test_empty_reply_is_an_end_without_chunks() -> None:
    async def nothing(_: web.Request) -> web.Response:
        return web.Response(status=204)

    assert await read_from(nothing) == ("", None)
