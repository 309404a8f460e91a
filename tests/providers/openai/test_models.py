"""The list of models, and replies that break before their body, from servers of any kind."""

import asyncio
import contextlib
import gzip
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.openai import OpenAIProvider
from berlin_worker.providers.openai import provider as module
from tests.support.openai_provider import read
from tests.support.providers import provider_factory

pytestmark = pytest.mark.contract

Serve = Callable[[bytes], Awaitable[OpenAIProvider]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Return a function that makes a provider whose server sends these bytes to each request."""
    reply = b""
    serving: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            # Bytes that are not read make the kernel reset the connection: the reply may be lost.
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            writer.write(reply)
            if not reply:
                await reader.read()  # until the client gives up
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with provider_factory(OpenAIProvider, {"OPENAI_BASE_URL": url}) as make:

            async def with_reply(data: bytes) -> OpenAIProvider:
                nonlocal reply
                reply = data
                return make()

            yield with_reply
        await asyncio.gather(*filter(None, serving))


def http(body: Any, *, status: str = "200 OK", headers: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
    return head.encode() + data


@pytest.mark.parametrize(
    ("reply", "names"),
    [
        (http({"object": "list", "data": [{"id": "b"}, {"id": "a"}]}), ["a", "b"]),
        (http([{"id": "a", "object": "model"}]), ["a"]),  # Together
        (http({"object": "list", "data": None}), []),  # Ollama without a model
        (http({"data": [{"id": 3}, "x", None, {"id": "a"}]}), ["a"]),
        (http(gzip.compress(b'{"data": []}', mtime=0), headers="Content-Encoding: gzip\r\n"), []),
    ],
)
async def test_list_of_models(serve: Serve, reply: bytes, names: list[str]) -> None:
    assert await (await serve(reply)).models() == names


@pytest.mark.parametrize(
    ("reply", "code", "retryable"),
    [
        (http({"data": {}}), ErrorCode.BAD_CHUNK, False),
        (http({"models": []}), ErrorCode.BAD_CHUNK, False),
        (http(b"<html>"), ErrorCode.BAD_CHUNK, False),
        (http(b'{"data": []}')[:-1], ErrorCode.UPSTREAM_ERROR, True),
        (http({}, status="503 Busy"), ErrorCode.UPSTREAM_ERROR, True),
        (http(b"", status="307 Moved", headers="Location: /v2\r\n"), ErrorCode.UPSTREAM_ERROR,
         False),
    ],
)  # fmt: skip
async def test_reply_without_a_list_of_models(
    serve: Serve, reply: bytes, code: ErrorCode, retryable: bool
) -> None:
    provider = await serve(reply)
    with pytest.raises(JobError) as caught:
        await provider.check_login()
    assert (caught.value.code, caught.value.retryable) == (code, retryable)
    assert "base URL" in caught.value.__notes__[0]


async def test_list_of_models_is_not_waited_for_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MODELS_TIMEOUT_S", 0.05)
    with pytest.raises(JobError) as caught:
        await (await serve(b"")).models()
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.UPSTREAM_TIMEOUT, True)


BROKEN = "Retry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n"


@pytest.mark.parametrize(
    ("reply", "code", "wait_s"),
    [
        (f"HTTP/1.1 429 Slow\r\n{BROKEN}".encode(), ErrorCode.RATE_LIMITED, 7.0),
        (f"HTTP/1.1 503 Busy\r\n{BROKEN}".encode(), ErrorCode.UPSTREAM_ERROR, 7.0),
        (http(b"x", headers="Content-Encoding: zip\r\n"), ErrorCode.UPSTREAM_ERROR, None),
        (b"HTTP/1.1 102 Wait\r\n\r\n" + http({}, status="429 Slow", headers="Retry-After: 7\r\n"),
         ErrorCode.RATE_LIMITED, 7.0),
    ],
)  # fmt: skip
async def test_reply_that_cannot_be_read(
    serve: Serve, reply: bytes, code: ErrorCode, wait_s: float | None
) -> None:
    _, error = await read(await serve(reply))
    assert error is not None
    assert (error.code, error.retryable, error.retry_after_s) == (code, True, wait_s)
