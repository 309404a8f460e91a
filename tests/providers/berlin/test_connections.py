"""Connections of the Berlin provider: closed, cancelled, refused, over TLS and a proxy."""

import asyncio
import contextlib
import ssl
import traceback
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from berlin_schemas import ErrorCode
from berlin_worker.embedded.upstream import Upstream
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Report
from berlin_worker.providers.berlin.provider import BerlinProvider
from tests.support.berlin_provider import REPLY, Make, job, read
from tests.support.waiting import until

pytestmark = pytest.mark.contract


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """Return the TLS context of a server with a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    private = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption_algorithm=NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_slow_reader_loses_nothing_when_the_connection_breaks(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    async with aclosing(berlin.stream(job("[[chunks:50]] [[cut:50]]"), Report())) as stream:
        text = "".join(await anext(stream))
        # The connection is closed, and its data is in the buffer.
        await until(lambda: upstream.open_streams == 0)
        with contextlib.suppress(JobError):
            async for deltas in stream:
                text += "".join(deltas)
    assert text == f"{REPLY} " * 12 + "one two "


async def test_closing_the_stream_closes_the_connection_at_once(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    stream = berlin.stream(job("[[stall:2]]"), Report())
    await anext(stream)
    assert upstream.open_streams == 1
    await stream.aclose()
    await until(lambda: upstream.disconnects == 1)
    assert upstream.open_streams == 0


@pytest.mark.parametrize("prompt", ["[[mute]]", "[[stall:0]]", "[[stall:2]]", "[[endless]]"])
async def test_cancelling_the_reader_closes_the_connection(
    upstream: Upstream, berlin: BerlinProvider, prompt: str
) -> None:
    reading = asyncio.create_task(read(berlin, prompt))
    await until(lambda: upstream.open_streams == 1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until(lambda: upstream.disconnects == 1)


async def test_upstream_that_is_down_is_an_upstream_error(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    await upstream.stop()
    _, error = await read(berlin)
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)
    assert "ECONNREFUSED" in error.message


async def test_server_that_does_not_finish_the_handshake_is_a_timeout(make: Make) -> None:
    left = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        provider = make(BERLIN_URL=f"https://127.0.0.1:{port}", WORKER_CONNECT_TIMEOUT_S="0.2")
        _, error = await read(provider)
        await asyncio.wait_for(left.wait(), 10)
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_TIMEOUT, True)


async def test_self_signed_certificate_is_refused_without_retry(
    make: Make, self_signed: ssl.SSLContext
) -> None:
    async def never(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(never, "127.0.0.1", 0, ssl=self_signed) as server:
        port = server.sockets[0].getsockname()[1]
        _, error = await read(make(BERLIN_URL=f"https://127.0.0.1:{port}"))
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, False)
    assert "certificate" in error.message


async def test_plain_server_at_a_tls_address_is_an_upstream_error(
    upstream: Upstream, make: Make
) -> None:
    _, error = await read(make(BERLIN_URL=upstream.url.replace("http:", "https:")))
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)


async def test_both_calls_go_through_the_proxy(upstream: Upstream, make: Make) -> None:
    seen: list[tuple[str, str]] = []

    async def forward(request: web.Request) -> web.StreamResponse:
        seen.append((str(request.url.path), request.headers.get("Proxy-Authorization", "")))
        async with aiohttp.ClientSession() as session:
            headers = {
                name: request.headers[name] for name in ("token",) if name in request.headers
            }
            url = upstream.url + request.path
            async with session.post(url, data=await request.read(), headers=headers) as answer:
                return web.Response(status=answer.status, body=await answer.read())

    runner = web.ServerRunner(web.Server(forward), shutdown_timeout=0.01)  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        proxy = f"http://user:proxy-password@127.0.0.1:{runner.addresses[0][1]}"
        assert await read(make(), proxy=proxy) == (REPLY, None)
        assert await read(make(BERLIN_PROXY=proxy)) == (REPLY, None)
        _, error = await read(make(), "[[status:500]]", proxy=proxy)
        assert error is not None
        assert "proxy-password" not in error.message
    finally:
        await runner.cleanup()
    assert [path for path, _ in seen][:2] == ["/api/login", "/api/chat/completions"]
    assert all(auth.startswith("Basic ") for _, auth in seen)
    _, error = await read(make(), proxy=proxy)
    assert error is not None
    assert error.retryable
    assert "proxy-password" not in "".join(traceback.format_exception(error))
