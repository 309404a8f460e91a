"""Streams on the wire: HTTP versions and methods, and readers that do not read."""

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from berlin_schemas import names
from berlin_worker.gateway import event_stream, requests
from berlin_worker.testing import InProcessWorker
from tests.gateway.conftest import Harness
from tests.support.job_writer import JobWriter
from tests.support.waiting import until

pytestmark = pytest.mark.integration

_EVENT = re.compile(rb"^id: (\d+)\nevent: .*\ndata: .*\n\n", re.MULTILINE)
CHUNKS, CHUNK_BYTES = 40, 64 * 1024


@pytest.fixture
async def store(worker: InProcessWorker) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(worker.redis_url) as store:
        yield store


async def connect(harness: Harness, *, receive_bytes: int = 0) -> socket.socket:
    opened = socket.socket()
    opened.setblocking(False)
    if receive_bytes:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    port = int(harness.url.rpartition(":")[2])
    await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", port))
    return opened


async def send(harness: Harness, opened: socket.socket, request: str) -> None:
    head = f"{request}\r\nHost: x\r\nAuthorization: Bearer {harness.keys['acme']}\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(opened, head.encode())


async def all_of(opened: socket.socket) -> bytes:
    """Return what arrives until the end, or until the connection is cut."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := await asyncio.get_running_loop().sock_recv(opened, 1 << 20):
            found += data
    return found


def seqs(body: bytes) -> list[int]:
    """Return the numbers of the whole events in ``body``."""
    return [int(seq) for seq in _EVENT.findall(body)]


async def test_reader_that_does_not_read_is_cut_and_comes_back_by_its_cursor(
    harness: Harness, store: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "STALL_S", 0.2)
    writer = JobWriter(store, names.new_job_id())
    await store.hset(names.state_key(writer.job_id), "tenant", "acme")
    await writer.started()
    path = f"/v1/jobs/{writer.job_id}/events"
    with contextlib.closing(await connect(harness, receive_bytes=4096)) as opened:
        await send(harness, opened, f"GET {path} HTTP/1.0")
        await until(lambda: harness.gateway.followers.count == 1)
        for _ in range(CHUNKS):
            await writer.chunk("x" * CHUNK_BYTES)
        await writer.completed()
        await until(lambda: harness.gateway.followers.count == 0)
        read = seqs(await all_of(opened))
    assert len(read) < CHUNKS / 2, "what a reader does not read is bounded"
    cursor = read[-1] if read else 0
    status, _, text = await harness.call("GET", path, headers={"Last-Event-ID": str(cursor)})
    assert status == 200
    assert read + seqs(text.encode()) == list(range(1, CHUNKS + 3))


@pytest.mark.parametrize("wish", ["", "\r\nConnection: keep-alive"])
async def test_http_1_0_gets_events_without_chunks_until_the_connection_closes(
    harness: Harness, wish: str
) -> None:
    job_id = await harness.submit("one two")
    with contextlib.closing(await connect(harness)) as opened:
        await send(harness, opened, f"GET /v1/jobs/{job_id}/events HTTP/1.0{wish}")
        head, _, body = (await all_of(opened)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert b"chunked" not in head.lower()
    assert seqs(body) == [1, 2, 3, 4]
    assert body.startswith(b"id: 1\nevent: started\ndata: {")


_JSON = "\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /v1/models?ticket=a-secret HTTP/1.1\r\nX: a-secret\x00", 400),
        ("GET /" + "a-secret" * 2000 + " HTTP/1.1", 400),
        ("a-secret", 400),
        (f"POST /v1/jobs HTTP/1.1{_JSON}Content-Length: 99999999", 413),
        (f"POST /v1/jobs HTTP/1.1{_JSON}Content-Length: 99", 408),
    ],
)
async def test_unusable_request_is_answered_and_no_part_of_it_is_logged(
    harness: Harness,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    request_text: str,
    status: int,
) -> None:
    monkeypatch.setattr(requests, "BODY_S", 0.01)
    with contextlib.closing(await connect(harness)) as opened, caplog.at_level(logging.DEBUG):
        await send(harness, opened, request_text)
        answer = await asyncio.get_running_loop().sock_recv(opened, 1 << 20)
    assert answer.split()[1] == b"%d" % status
    assert "a-secret" not in caplog.text
    assert harness.keys["acme"] not in caplog.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/{id}/events",
        "/v1/jobs/{id}/events?wait_s=60&after=99",
        "/v1/responses/{id}?stream=true",
        "/v1/responses/{id}",
        "/v1/jobs/{id}",
        "/v1/jobs",
        "/v1/models",
        "/",
        "/livez",
    ],
)
async def test_head_has_the_headers_of_get_and_no_body(harness: Harness, path: str) -> None:
    path = path.format(id=await harness.submit("one HANG"))
    status, headers, body = await harness.call("HEAD", path)
    assert (status, body) == (200, "")
    if path.endswith(("/events", "?stream=true")):
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "json"),
    [
        ("/v1/jobs/{id}/events", None),
        ("/v1/chat/completions", {"stream": True}),
        ("/v1/responses", {"stream": True, "input": "one"}),
    ],
)
async def test_stream_is_not_compressed_or_cached(
    harness: Harness, path: str, json: dict | None
) -> None:
    if json is not None and "input" not in json:
        json |= {"messages": [{"role": "user", "content": "one"}]}
    status, headers, text = await harness.call(
        "GET" if json is None else "POST",
        path.format(id=await harness.submit("one")),
        json=json,
        headers={"Accept-Encoding": "gzip, br"},
    )
    assert status == 200
    assert "Content-Encoding" not in headers
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-cache", "no")
    if json is not None:  # openai-python fails on an empty event after one of these
        assert not re.search(r"^(id|retry):", text, re.MULTILINE)
