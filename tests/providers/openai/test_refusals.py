"""Requests that an OpenAI-compatible server or the provider refuses."""

import asyncio
import json
import traceback
from typing import Any

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.errors import JobError
from berlin_worker.providers.openai import OpenAIProvider
from tests.support.framings import FRAMINGS, write
from tests.support.openai_provider import KEY, Make, job, read
from tests.support.raw_upstream import raw_upstream

pytestmark = pytest.mark.contract


@pytest.mark.parametrize(
    ("prompt", "text", "code", "retryable"),
    [
        ("[[cut:2]]", "one two ", ErrorCode.UPSTREAM_ERROR, True),
        ("[[half:2]]", "one two ", ErrorCode.UPSTREAM_ERROR, True),
        ("[[bare:2]]", "one two ", ErrorCode.UPSTREAM_ERROR, True),
        ("[[unfinished:2]][[no_done]]", "one two ", ErrorCode.UPSTREAM_ERROR, True),
        ("[[drop]]", "", ErrorCode.UPSTREAM_ERROR, True),
        ("[[garbage:2]]", "one two ", ErrorCode.BAD_CHUNK, False),
        ("[[html]]", "", ErrorCode.BAD_CHUNK, False),
        ("[[stream_error:2]]", "one two ", ErrorCode.UPSTREAM_ERROR, True),
        ("[[stream_error:2:429]]", "one two ", ErrorCode.RATE_LIMITED, True),
        ("[[stream_error:0:400]]", "", ErrorCode.UPSTREAM_ERROR, False),
        ("[[quota]]", "", ErrorCode.QUOTA_EXCEEDED, False),
        ("[[context]]", "", ErrorCode.CONTEXT_LENGTH_EXCEEDED, False),
        ("[[status:401]]", "", ErrorCode.AUTH_FAILED, False),
        ("[[status:403]]", "", ErrorCode.AUTH_FAILED, False),
        ("[[status:429:2]]", "", ErrorCode.RATE_LIMITED, True),
        *((f"[[status:{status}]]", "", ErrorCode.UPSTREAM_ERROR, False)
          for status in (301, 400, 404, 413, 422)),
        *((f"[[status:{status}]]", "", ErrorCode.UPSTREAM_ERROR, True)
          for status in (408, 409, 500, 502, 503, 529)),
    ],
)  # fmt: skip
async def test_failures(
    provider: OpenAIProvider, prompt: str, text: str, code: ErrorCode, retryable: bool
) -> None:
    deltas, error = await read(provider, prompt)
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable), error
    assert "".join(str(delta) for delta in deltas) == text
    assert error.retry_after_s == (2.0 if ":2]]" in prompt and code == "rate_limited"
                                   and "status" in prompt else None)  # fmt: skip


@pytest.mark.parametrize("prompt", ["[[leak:400]] my dear little secret", "[[leak:500]] my secret"])
async def test_errors_show_neither_key_nor_prompt(provider: OpenAIProvider, prompt: str) -> None:
    _, error = await read(provider, prompt)
    assert error is not None
    shown = "".join(traceback.format_exception(error))
    assert "refused" in shown
    assert KEY not in shown
    assert "secret" not in error.message


async def test_wrong_key_is_not_shown(upstream: OpenAIUpstream, make: Make) -> None:
    _, error = await read(make(OPENAI_API_KEY="sk-wrong-9876543210-zyxwvu"))
    assert error is not None
    assert error.code is ErrorCode.AUTH_FAILED
    assert "Incorrect API key provided" in error.message
    assert "sk-wrong" not in error.message
    assert "xwvu" not in error.message


async def test_usage_is_not_asked_for_again_at_a_server_that_refuses(
    provider: OpenAIProvider, upstream: OpenAIUpstream
) -> None:
    upstream.inject("refuse_usage", times=None)
    for calls in (2, 3, 4):
        deltas, error = await read(provider)
        assert error is None
        assert len(deltas) == 4
        assert upstream.completion_calls == calls
    assert ["stream_options" in call.body for call in upstream.calls] == [True, False, False, False]


async def test_refusal_of_the_usage_may_be_in_the_stream() -> None:
    asked: list[bool] = []

    async def answer(writer: asyncio.StreamWriter, body: bytes) -> None:
        sent = json.loads(body)
        asked.append("stream_options" in sent)
        word, code = sent["messages"][0]["content"].split()
        text = {"choices": [{"delta": {"content": word}}]}
        error = {"error": {"message": "Unsupported: stream_options", "code": int(code)}}
        events: list[Any] = [text] if word != "-" else []
        events += [error] if asked[-1] else []
        data = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in events)
        await write(writer, FRAMINGS["length"], data + b"data: [DONE]\n\n", "")

    async with raw_upstream(answer, kind=OpenAIProvider) as read_raw, asyncio.timeout(60):
        assert (await read_raw("- 500")).error  # a retryable error
        assert (await read_raw("word 400")).error  # a part of the answer was yielded
        assert asked == [True, True]
        for _ in range(2):
            found = await read_raw("- 400")
            assert (found.text, found.error) == ("", None)
    assert asked == [True, True, True, False, False]


async def test_refusal_for_another_reason_is_not_remembered(
    provider: OpenAIProvider, upstream: OpenAIUpstream
) -> None:
    _, error = await read(provider, "[[leak:400]] what are stream_options")
    assert error is not None
    assert (await read(provider))[1] is None
    assert "stream_options" in upstream.calls[-1].body


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"model": "x"}, "model"),
        ({"messages": []}, "messages"),
        ({"stream": True}, "stream"),
        ({"stream_options": {}}, "stream_options"),
        ({"n": 2}, "n must be 1"),
        ({"n": 0}, "n must be 1"),
        ({"n": True}, "n must be 1"),
        ({"n": "1"}, "n must be 1"),
    ],
)
async def test_options_of_the_worker_are_refused(
    provider: OpenAIProvider, options: dict[str, Any], part: str
) -> None:
    with pytest.raises(JobError, match=part) as caught:
        provider.check(job(options=options))
    assert caught.value.code is ErrorCode.INVALID_JOB
