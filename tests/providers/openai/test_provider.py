"""The provider of OpenAI-compatible servers against the stand-in, over loopback."""

import asyncio
import json
import zlib
from typing import Any

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.providers.base import Report
from berlin_worker.providers.deltas import ReasoningDelta, ToolCallDelta
from berlin_worker.providers.openai import OpenAIProvider
from berlin_worker.settings import Settings
from tests.support.framings import chunked
from tests.support.openai_provider import KEY, REPLY, Make, job, read
from tests.support.raw_upstream import raw_upstream
from tests.support.waiting import until

pytestmark = pytest.mark.contract

USAGE = {
    "prompt_tokens": 1,
    "completion_tokens": 4,
    "total_tokens": 5,
    "completion_tokens_details": {"reasoning_tokens": 0},
}


async def test_request_is_that_of_the_protocol(
    provider: OpenAIProvider, upstream: OpenAIUpstream
) -> None:
    messages = [
        {"role": "developer", "content": "Be short", "name": "me"},
        {"role": "user", "content": [{"type": "text", "text": "Hello"},
                                     {"type": "image_url", "image_url": {"url": "data:x"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function"}]},
        {"role": "tool", "content": "21", "tool_call_id": "a"},
    ]  # fmt: skip
    options = {"temperature": 0, "tools": [{"type": "function"}], "n": 1, "vendor_field": None}
    report = Report()
    deltas, error = await read(provider, messages, report, options=options, tenant="t")
    assert error is None
    assert deltas == ["one ", "two ", "three ", "four"]
    assert (report.finish_reason, report.usage) == ("stop", USAGE)
    call = upstream.calls[-1]
    assert call.body == {
        "model": "stand-in",
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }
    assert call.path == "/v1/chat/completions"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.headers["content-type"] == "application/json"


async def test_server_without_a_key_gets_no_authorization(
    make: Make, upstream: OpenAIUpstream
) -> None:
    upstream.key = ""
    provider = make(OPENAI_API_KEY="")
    assert (await read(provider))[1] is None
    assert "authorization" not in upstream.calls[-1].headers


async def test_reasoning_and_tool_calls(provider: OpenAIProvider) -> None:
    report = Report()
    deltas, error = await read(provider, "[[reasoning:2]][[tool_calls:2]]", report)
    assert error is None
    assert deltas[:3] == [ReasoningDelta("thought 0 "), ReasoningDelta("thought 1 "), "one "]
    assert deltas[6:] == [
        ToolCallDelta(0, "", "call_0", "weather"),
        ToolCallDelta(0, '{"place"'),
        ToolCallDelta(0, ': "Berlin"}'),
        ToolCallDelta(1, "", "call_1", "weather"),
        ToolCallDelta(1, '{"place"'),
        ToolCallDelta(1, ': "Berlin"}'),
    ]
    assert report.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("prompt", "reason", "has_usage"),
    [
        ("[[length]]", "length", True),
        ("[[usage_inside]]", "stop", True),
        ("[[no_usage]]", "stop", False),
        ("[[no_done]]", "stop", True),
        ("[[no_done]][[no_usage]]", "stop", False),
        ("[[comments]][[drip:0]]", "stop", True),
        ("[[gzip]]", "stop", True),
    ],
)
async def test_whole_answers(
    provider: OpenAIProvider, prompt: str, reason: str, has_usage: bool
) -> None:
    report = Report()
    deltas, error = await read(provider, prompt, report)
    assert error is None
    assert "".join(str(delta) for delta in deltas) == REPLY
    assert (report.finish_reason, report.usage is not None) == (reason, has_usage)


async def test_keep_alives_are_no_deltas(provider: OpenAIProvider) -> None:
    beats = []
    report = Report(alive=lambda: beats.append(1))
    await read(provider, "[[comments]][[delay:0.01]]", report)
    assert beats


@pytest.mark.parametrize("coding", ["identity", "gzip", "deflate"])
async def test_answer_is_complete_if_the_server_sends_nothing_after_the_finish_reason(
    monkeypatch: pytest.MonkeyPatch, coding: str
) -> None:
    monkeypatch.setattr("berlin_worker.providers.openai.provider._AFTER_REASON_S", 0.05)

    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        choice = {"delta": {"content": "x"}, "finish_reason": "stop"}
        event = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
        if coding != "identity":
            packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
            event = packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\n" % coding.encode()
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        writer.write(head + chunked(event).removesuffix(b"0\r\n\r\n"))
        await writer.drain()

    async with raw_upstream(answer, kind=OpenAIProvider) as ask, asyncio.timeout(20):
        found = await ask()
    assert (found.text, found.error) == ("x", None)


async def test_connection_serves_the_next_job(
    provider: OpenAIProvider, upstream: OpenAIUpstream
) -> None:
    for _ in range(3):
        assert (await read(provider))[1] is None
    connector = provider._session.connector
    assert connector is not None
    assert len(connector._conns) == 1


async def test_closing_closes_the_connection(
    provider: OpenAIProvider, upstream: OpenAIUpstream
) -> None:
    stream = provider.stream(job("[[stall:2]]"), Report())
    await anext(stream)
    await stream.aclose()
    await until(lambda: upstream.disconnects == 1)
    assert upstream.open_streams == 0


@pytest.mark.parametrize("named_by", ["job", "setting"])
async def test_proxy_is_used(make: Make, named_by: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    asked: list[bytes] = []
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        proxy = f"http://me:proxy-secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        if named_by == "job":
            _, error = await read(make(OPENAI_PROXY="http://127.0.0.1:9"), proxy=proxy)
        else:
            provider = make(OPENAI_PROXY=proxy)
            _, error = await read(provider)
            with pytest.raises(JobError) as caught:
                await provider.models()
            assert "proxy-secret" not in str(caught.value)
    assert error is not None
    assert "proxy-secret" not in str(error)
    methods = [b"POST"] if named_by == "job" else [b"POST", b"GET"]
    # aiohttp sends a GET twice if its connection breaks.
    assert list(dict.fromkeys(line.split(b" ")[0] for line in asked)) == methods
    assert all(b" http://127.0.0.1:" in line for line in asked)


@pytest.mark.parametrize("n", [1, 1.0, None])
async def test_n_of_one_is_accepted(provider: OpenAIProvider, n: Any) -> None:
    provider.check(job(options={"n": n, "logit_bias": {"1": 2}, "anything": [1]}))


async def test_models_and_login(make: Make, upstream: OpenAIUpstream) -> None:
    provider = make()
    assert await provider.models() == ["stand-in", "stand-in-small"]
    await provider.check_login()
    with pytest.raises(JobError) as caught:
        await make(OPENAI_API_KEY="sk-wrong-0123456789").check_login()
    assert caught.value.code is ErrorCode.AUTH_FAILED
    assert caught.value.__notes__ == ["look at the key of the endpoint"]
    without_models = make(OPENAI_BASE_URL=f"{upstream.url}/v2")
    await without_models.check_login()
    with pytest.raises(JobError):
        await without_models.models()


def test_public_server_is_asked_with_a_key_alone() -> None:
    with pytest.raises(SettingsError, match="OPENAI_API_KEY"):
        OpenAIProvider.check_settings(Settings.from_env({}), {})
    environ = {"OPENAI_API_KEY": "clé"}
    with pytest.raises(SettingsError, match="OPENAI_API_KEY") as caught:
        OpenAIProvider.check_settings(Settings.from_env(environ), environ)
    assert "clé" not in str(caught.value)
