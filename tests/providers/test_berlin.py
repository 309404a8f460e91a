"""The Berlin provider against the stand-in upstream, over loopback."""

import asyncio
import contextlib
import ssl
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from berlin_schemas import ErrorCode, PromptJob
from berlin_worker.embedded.replies import line
from berlin_worker.embedded.upstream import Upstream
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.providers.base import Report, Services
from berlin_worker.providers.berlin.provider import BerlinProvider
from berlin_worker.providers.http import open_session
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings
from tests.support.waiting import until

pytestmark = pytest.mark.contract

SECRET_ACCOUNT = 'me&"you"@example.org'
SECRET_PASSWORD = "p/ss w+rd"
REPLY = "one two three four"

Make = Callable[..., BerlinProvider]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(account=SECRET_ACCOUNT, password=SECRET_PASSWORD, reply=REPLY) as server:
        yield server


@pytest.fixture
async def make(upstream: Upstream) -> AsyncIterator[Make]:
    """Builds providers for the upstream; keyword arguments are further settings."""
    tokens = LocalTokens()
    sessions: list[aiohttp.ClientSession] = []

    def build(**environ: str) -> BerlinProvider:
        environ = {**upstream.environ, **environ}
        settings = Settings.from_env(environ)
        sessions.append(open_session(settings))
        return BerlinProvider(Services(sessions[-1], tokens, settings, environ))

    yield build
    for session in sessions:
        await session.close()


@pytest.fixture
async def berlin(make: Make) -> BerlinProvider:
    return make()


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """The TLS context of a server whose certificate is its own."""
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


def job(prompt: str = "Hello", **fields: Any) -> PromptJob:
    return PromptJob(messages=[{"role": "user", "content": prompt}], **fields)


async def read(
    provider: BerlinProvider, prompt: str = "Hello", report: Report | None = None, **fields: Any
) -> tuple[str, JobError | None]:
    """The text until the end or the error, and the error."""
    text = ""
    try:
        async with aclosing(provider.stream(job(prompt, **fields), report or Report())) as stream:
            async for deltas in stream:
                assert deltas
                assert all(deltas)
                text += "".join(deltas)
    except JobError as error:
        return text, error
    return text, None


async def test_one_login_serves_many_completions(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    report = Report()
    assert await read(berlin, report=report) == (REPLY, None)
    assert report.login_s > 0
    assert await asyncio.gather(*(read(berlin) for _ in range(20))) == [(REPLY, None)] * 20
    assert (upstream.logins, upstream.completions) == (1, 21)


async def test_the_calls_are_those_of_the_protocol(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    await read(berlin, model="gpt-4", options={"temperature": 0.5})
    await read(berlin)
    login, first, second = upstream.calls
    assert login.body == {"account": SECRET_ACCOUNT, "password": SECRET_PASSWORD}
    assert "token" not in login.headers
    assert first.headers["token"] == second.headers["token"]
    assert "authorization" not in first.headers
    assert "cookie" not in first.headers
    for call in (login, first):
        assert call.headers["origin"] == upstream.url
        assert call.headers["referer"] == f"{upstream.url}/"
        assert call.headers["alt-used"] == upstream.url.removeprefix("http://")
        assert call.headers["content-type"] == "application/json"
        assert call.headers["te"] == "trailers"
    assert first.body["prompt"] == "Hello"
    assert first.body["options"] == {
        "model": "gpt-4",
        "temperature": 0.5,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "max_tokens": 1888,
    }
    assert first.body["parentMessageId"] != second.body["parentMessageId"]


async def test_an_expired_token_costs_one_login_and_one_replay(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    await read(berlin)
    upstream.expire_tokens()
    assert await read(berlin) == (REPLY, None)
    assert (upstream.logins, upstream.refused, upstream.completions) == (2, 1, 2)
    ids = [call.body["parentMessageId"] for call in upstream.calls if "token" in call.headers]
    assert len(set(ids)) == 3


async def test_a_second_401_ends_the_job(upstream: Upstream, berlin: BerlinProvider) -> None:
    upstream.inject("expire", times=None)
    text, error = await read(berlin)
    assert text == ""
    assert error is not None
    assert (error.code, error.retryable, error.upstream_status) == (
        ErrorCode.AUTH_FAILED,
        False,
        401,
    )
    assert (upstream.logins, upstream.completion_calls) == (2, 2)


async def test_a_403_is_no_reason_to_log_in_again(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    _, error = await read(berlin, "[[status:403]]")
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.AUTH_FAILED, False)
    assert (upstream.logins, upstream.completion_calls) == (1, 1)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("status:400", (ErrorCode.UPSTREAM_ERROR, False, 400, None)),
        ("status:302", (ErrorCode.UPSTREAM_ERROR, False, 302, None)),
        ("status:429:7", (ErrorCode.RATE_LIMITED, True, 429, 7.0)),
        ("status:503:2", (ErrorCode.UPSTREAM_ERROR, True, 503, 2.0)),
        ("status:500", (ErrorCode.UPSTREAM_ERROR, True, 500, None)),
        ("drop", (ErrorCode.UPSTREAM_ERROR, True, None, None)),
        ("error_body", (ErrorCode.BAD_CHUNK, False, None, None)),
    ],
)
async def test_refused_completion_has_the_code_of_its_status(
    upstream: Upstream, berlin: BerlinProvider, fault: str, expected: tuple[Any, ...]
) -> None:
    text, error = await read(berlin, f"[[{fault}]]")
    assert text == ""
    assert error is not None
    found = (error.code, error.retryable, error.upstream_status, error.retry_after_s)
    assert found == expected
    assert upstream.completion_calls == 1


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        ("cut:2", ErrorCode.UPSTREAM_ERROR, True),
        ("half:2", ErrorCode.UPSTREAM_ERROR, True),
        ("half:2]] [[gzip", ErrorCode.UPSTREAM_ERROR, True),
        ("unfinished:2", ErrorCode.UPSTREAM_ERROR, True),
        ("garbage:2", ErrorCode.BAD_CHUNK, False),
    ],
)
async def test_what_came_before_the_fault_is_delivered(
    berlin: BerlinProvider, fault: str, code: ErrorCode, retryable: bool
) -> None:
    text, error = await read(berlin, f"[[{fault}]]")
    assert text == "one two "
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)


async def test_a_slow_reader_loses_nothing_when_the_connection_breaks(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    async with aclosing(berlin.stream(job("[[chunks:50]] [[cut:50]]"), Report())) as stream:
        text = "".join(await anext(stream))
        # The connection is gone, and what it brought lies in the buffer.
        await until(lambda: upstream.open_streams == 0)
        with contextlib.suppress(JobError):
            async for deltas in stream:
                text += "".join(deltas)
    assert text == f"{REPLY} " * 12 + "one two "


async def test_secrets_that_the_upstream_repeats_are_hidden(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    await read(berlin)
    token = upstream.calls[-1].headers["token"]
    _, error = await read(berlin, "[[leak:500]]")
    assert error is not None
    assert token not in error.message
    assert "you" not in error.message
    assert "w+rd" not in error.message
    assert error.message.count("[hidden]") == 3
    assert error.message.isprintable()


async def test_a_bad_line_is_shown_short_clean_and_without_secrets(upstream: Upstream) -> None:
    bad = f"<html>\x1b[31m {SECRET_PASSWORD} {'x' * 10_000}"
    async with Upstream(reply=lambda _: bad.encode(), password=SECRET_PASSWORD) as other:
        settings = Settings.from_env(other.environ)
        async with open_session(settings) as session:
            provider = BerlinProvider(Services(session, LocalTokens(), settings, {}))
            _, error = await read(provider)
    assert error is not None
    assert error.code is ErrorCode.BAD_CHUNK
    assert ": [hidden] xxx" in error.message
    assert error.message.isprintable()
    assert len(error.message) < 300


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


async def test_a_line_of_300_kb_and_one_without_newline_are_taken() -> None:
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
async def test_a_reply_over_the_limits_is_closed(
    upstream: Upstream, make: Make, prompt: str, environ: dict[str, str]
) -> None:
    _, error = await read(make(**environ), prompt)
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, False)
    assert next(iter(environ)) in error.message
    await until(lambda: upstream.open_streams == 0)


async def test_a_compressed_bomb_is_never_held_in_memory(berlin: BerlinProvider) -> None:
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
async def test_a_body_that_is_not_encoded_as_it_says_is_an_upstream_error(encoding: str) -> None:
    async def lie(_: web.Request) -> web.Response:
        return web.Response(body=line("a"), headers={"Content-Encoding": encoding})

    _, error = await read_from(lie)
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)


async def read_from(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> tuple[str, JobError | None]:
    """What the provider reads where ``handler`` answers the completion."""

    async def login(_: web.Request) -> web.Response:
        return web.json_response({"data": {"token": "a-token"}})

    app = web.Application()
    app.router.add_post("/api/login", login)
    app.router.add_post("/api/chat/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        environ = {"BERLIN_URL": url, "BERLIN_ACCOUNT": "a", "BERLIN_PASSWORD": "b"}
        settings = Settings.from_env(environ)
        async with open_session(settings) as session:
            return await read(BerlinProvider(Services(session, LocalTokens(), settings, {})))
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("broken", [b"ZZ\r\nxx\r\n", b"F" * 40 + b"\r\n"])
@pytest.mark.parametrize("pause_s", [0, 0.1])
async def test_a_reply_whose_framing_breaks_ends_at_once(broken: bytes, pause_s: float) -> None:
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
    assert text in {"a", ""}  # all in one read, it is no reply at all
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)


async def test_a_connection_that_serves_many_replies_remembers_none(
    upstream: Upstream, make: Make
) -> None:
    provider = make()
    for _ in range(5):
        assert await read(provider) == (REPLY, None)
    connector: Any = provider._account._session.connector
    [[(protocol, _)]] = connector._conns.values()
    assert len(protocol.closed._callbacks) == 1  # that asks for its error


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


async def test_an_empty_reply_is_an_end_without_chunks() -> None:
    async def nothing(_: web.Request) -> web.Response:
        return web.Response(status=204)

    assert await read_from(nothing) == ("", None)


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        ("status:400", ErrorCode.AUTH_FAILED, False),
        ("status:401", ErrorCode.AUTH_FAILED, False),
        ("status:403", ErrorCode.AUTH_FAILED, False),
        ("status:404", ErrorCode.UPSTREAM_ERROR, False),
        ("status:302", ErrorCode.UPSTREAM_ERROR, False),
        ("status:429:3", ErrorCode.RATE_LIMITED, True),
        ("status:502", ErrorCode.UPSTREAM_ERROR, True),
        ("error_body", ErrorCode.AUTH_FAILED, False),
        ("garbage:0", ErrorCode.UPSTREAM_ERROR, True),
        ("drop", ErrorCode.UPSTREAM_ERROR, True),
        ("mute", ErrorCode.UPSTREAM_TIMEOUT, True),
        ("delay:30", ErrorCode.UPSTREAM_TIMEOUT, True),
        ("leak:500", ErrorCode.UPSTREAM_ERROR, True),
    ],
)
async def test_failed_login_has_the_code_of_its_cause(
    upstream: Upstream, make: Make, fault: str, code: ErrorCode, retryable: bool
) -> None:
    # Every login: one that is given up early may never have been seen by the upstream.
    upstream.inject(fault, on="login", times=None)
    hurry = {"WORKER_LOGIN_TIMEOUT_S": "0.3"} if code is ErrorCode.UPSTREAM_TIMEOUT else {}
    text, error = await read(make(**hurry))
    assert text == ""
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)
    assert upstream.completion_calls == 0
    upstream.clear_faults()
    assert await read(make()) == (REPLY, None)


async def test_wrong_credentials_are_not_retryable(make: Make) -> None:
    _, error = await read(make(BERLIN_PASSWORD="wrong"))
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.AUTH_FAILED, False)


async def test_an_upstream_that_is_down_is_an_upstream_error(
    upstream: Upstream, berlin: BerlinProvider
) -> None:
    await upstream.stop()
    _, error = await read(berlin)
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)
    assert "ECONNREFUSED" in error.message


async def test_a_server_that_does_not_finish_the_handshake_is_a_timeout(make: Make) -> None:
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


async def test_a_certificate_that_nobody_signed_is_refused_for_good(
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


async def test_a_plain_server_at_a_tls_address_is_an_upstream_error(
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


@pytest.mark.parametrize("missing", ["BERLIN_ACCOUNT", "BERLIN_PASSWORD"])
def test_missing_credentials_are_one_clear_line(missing: str) -> None:
    environ = {"BERLIN_ACCOUNT": "a", "BERLIN_PASSWORD": "b", missing: ""}
    services: Any = SimpleNamespace(
        http=None, tokens=LocalTokens(), settings=Settings.from_env(environ), environ=environ
    )
    with pytest.raises(SettingsError, match=r"\Aset BERLIN_ACCOUNT and BERLIN_PASSWORD.*\Z"):
        BerlinProvider(services)


@pytest.mark.parametrize(
    "environ",
    [
        {"BERLIN_URL": "ftp://host"},
        {"BERLIN_URL": "nonsense"},
        {"BERLIN_URL": "https://user:hunter2@host"},
        {"BERLIN_PROXY": "socks5://user:hunter2@host"},
    ],
)
def test_addresses_that_cannot_be_used_are_named_and_not_repeated(environ: dict[str, str]) -> None:
    environ = {"BERLIN_ACCOUNT": "a", "BERLIN_PASSWORD": "b", **environ}
    with pytest.raises(SettingsError, match=r"BERLIN_(URL|PROXY)") as caught:
        Settings.from_env(environ)
    assert "hunter2" not in str(caught.value)


async def test_check_refuses_what_the_upstream_would_not_take(make: Make) -> None:
    provider = make()
    provider.check(job(options={"temperature": 1}, proxy="http://proxy.example:3128"))
    for bad in (job(options={"stop": "x"}), job(proxy="socks5://proxy.example")):
        with pytest.raises(JobError) as caught:
            provider.check(bad)
        assert caught.value.code is ErrorCode.INVALID_JOB
