"""Chats by OpenAI's own client, unchanged, and the bytes that it reads."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from berlin_worker.embedded.redis_server import fake_redis
from berlin_worker.testing import InProcessWorker
from tests.gateway.conftest import Harness, serve
from tests.support.waiting import until

pytestmark = pytest.mark.contract


ARGUMENTS = '{"of": 1}'
TOOL = {"type": "function", "function": {"name": "CALLME", "parameters": {"type": "object"}}}


def client(harness: Harness) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=harness.url + "/v1",
        api_key=harness.keys["acme"],
    )


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def until_status(harness: Harness, status: str) -> list[dict[str, Any]]:
    """Return the newest job as soon as it has ``status``."""
    async with asyncio.timeout(60):
        while True:
            _, _, page = await harness.call("GET", "/v1/jobs?limit=1")
            if [job["status"] for job in page["jobs"]] == [status]:
                return list(page["jobs"])
            await asyncio.sleep(0.01)


async def test_official_client_gets_one_answer(harness: Harness) -> None:
    async with client(harness) as ai:
        raw = await ai.chat.completions.with_raw_response.create(
            model="m1", messages=user("one two")
        )
    answer = raw.parse()
    assert answer.choices[0].message.content == "one two "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5
    assert answer.id == f"chatcmpl-{raw.headers['x-job-id']}"


async def test_official_client_streams_with_usage(harness: Harness) -> None:
    async with client(harness) as ai:
        stream = await ai.chat.completions.create(
            model="m1",
            messages=user("one two"),
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "one two "
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5


async def test_official_client_gets_reasoning_and_tool_calls(harness: Harness) -> None:
    asked: Any = {"model": "m1", "messages": user("THINK CALLME"), "tools": [TOOL]}
    async with client(harness) as ai:
        answer = await ai.chat.completions.create(**asked)
        stream = await ai.chat.completions.create(**asked, stream=True)
        chunks = [chunk async for chunk in stream]
    [choice] = answer.choices
    assert choice.finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"
    assert choice.message.content is None
    calls = choice.message.tool_calls or []
    assert [call.to_dict() for call in calls] == [
        {"id": "call-1", "type": "function", "function": {"name": "CALLME", "arguments": ARGUMENTS}}
    ]
    deltas = [chunk.choices[0].delta.to_dict() for chunk in chunks]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == [
        "THINK "
    ]
    [streamed] = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert streamed == calls[0].to_dict() | {"index": 0}
    assert choice.message.to_dict()["reasoning_content"] == "THINK "


async def test_idempotency_key_attaches_to_the_same_chat_and_refuses_another(
    harness: Harness,
) -> None:
    headers = {"Idempotency-Key": "order-7"}
    async with client(harness) as ai:
        create = ai.chat.completions.with_raw_response.create
        first = await create(model="m1", messages=user("one"), extra_headers=headers)
        again = await create(model="m1", messages=user("one"), extra_headers=headers)
        assert first.headers["x-job-id"] == again.headers["x-job-id"]
        assert again.parse().choices[0].message.content == "one "
        with pytest.raises(openai.UnprocessableEntityError) as raised:
            await create(model="m1", messages=user("two"), extra_headers=headers)
        assert raised.value.code == "idempotency_key_reused"


async def text_of(ai: openai.AsyncOpenAI, text: str, *, stream: bool) -> str:
    messages = user(text)
    if not stream:
        answer = await ai.chat.completions.create(model="m1", messages=messages)
        return answer.choices[0].message.content or ""
    chunks = await ai.chat.completions.create(model="m1", messages=messages, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        ("FAIL rate_limited", openai.RateLimitError, "rate_limited"),
        ("FAIL upstream_error", openai.InternalServerError, "upstream_error"),
        ("FAIL auth_failed", openai.InternalServerError, "auth_failed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failed_job_is_raised_once_by_the_official_client(
    harness: Harness, text: str, error: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    async with client(harness) as ai:
        with pytest.raises(openai.APIError) as raised:
            await text_of(ai, text, stream=stream)
    assert raised.value.code == code
    if isinstance(raised.value, openai.APIStatusError):
        assert isinstance(raised.value, error)
        assert raised.value.response.headers["x-should-retry"] == "false"
        assert raised.value.response.headers["x-job-id"]


async def test_invalid_requests_raise_the_errors_of_the_official_client(harness: Harness) -> None:
    async with client(harness) as ai:
        with pytest.raises(openai.BadRequestError) as raised:
            await ai.chat.completions.create(model="m1", messages=[])
        assert raised.value.code == "invalid_job"
        with pytest.raises(openai.BadRequestError) as raised:
            await ai.chat.completions.create(model="m1", messages=user("x"), n=2)
        assert raised.value.param == "n"
        with pytest.raises(openai.AuthenticationError):
            await ai.with_options(api_key="wrong").models.list()


@pytest.mark.usefixtures("quick_pings")
async def test_stream_has_comments_and_data_alone(harness: Harness) -> None:
    headers = {"Authorization": f"Bearer {harness.keys['acme']}"}
    body = {"model": "m1", "messages": user("one HANG"), "stream": True}
    async with harness.http.post(
        f"{harness.url}/v1/chat/completions", json=body, headers=headers
    ) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert "Content-Encoding" not in response.headers
        job_id = response.headers["x-job-id"]
        text = b""
        while b": waiting\n" not in text:
            text += await response.content.readany()
        await harness.gateway.client.cancel(job_id)
        text += await response.read()
    lines = text.decode().splitlines()
    assert {line.partition(":")[0] for line in lines if line} <= {"", "data"}
    # A comment never stands alone between two empty lines: some clients read that as an event.
    assert ": waiting\n\n" not in text.decode()
    last = json.loads([line for line in lines if line][-1].removeprefix("data: "))
    assert last["error"]["code"] == "cancelled"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields"),
    [("chat/completions", {"messages": user("one HANG")}), ("responses", {"input": "one HANG"})],
)
async def test_job_of_a_disconnected_client_is_cancelled(
    worker: InProcessWorker, tmp_path: Path, path: str, fields: dict[str, Any], stream: bool
) -> None:
    async with serve(worker.redis_url, tmp_path, gateway_abandon_s=0.01) as harness:
        headers = {
            "Authorization": f"Bearer {harness.keys['acme']}",
            "Idempotency-Key": f"{path} {stream}",
        }
        body = fields | {"model": "m1", "stream": stream}
        request = asyncio.create_task(
            harness.call("POST", f"/v1/{path}", json=body, headers=headers)
        )
        [running] = await until_status(harness, "running")
        request.cancel()
        [cancelled] = await until_status(harness, "cancelled")
        assert cancelled["job_id"] == running["job_id"]


@pytest.mark.parametrize("replicas", [1, 2])
async def test_job_goes_on_while_a_retry_with_its_key_waits_for_it(
    worker: InProcessWorker, tmp_path: Path, replicas: int
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        gateways = [
            await stack.enter_async_context(
                serve(worker.redis_url, tmp_path, gateway_abandon_s=0.01)
            )
            for _ in range(replicas)
        ]
        one, other = gateways[0], gateways[-1]
        body = {"model": "m1", "messages": user("one HANG"), "stream": True}
        key = {"Idempotency-Key": f"retried {replicas}"}

        async def send(harness: Harness) -> aiohttp.ClientResponse:
            headers = key | {"Authorization": f"Bearer {harness.keys['acme']}"}
            url = f"{harness.url}/v1/chat/completions"
            response = await harness.http.post(url, json=body, headers=headers)
            async for line in response.content:
                if line.startswith(b"data: "):  # a slow worker has pings before it
                    assert b"one" in line
                    return response
            raise AssertionError("the answer has no text")

        first, retry = await send(one), await send(other)
        job_id = first.headers["x-job-id"]
        first.close()
        await until(lambda: one.gateway.callers[job_id] == 2 - replicas)
        await one.gateway.abandoned()
        _, _, job = await other.call("GET", f"/v1/jobs/{job_id}")
        assert (job["status"], job["cancel_requested"]) == ("running", False)
        retry.close()
        [cancelled] = await until_status(other, "cancelled")
        assert cancelled["job_id"] == job_id


async def test_job_without_a_worker_is_cancelled_in_time(tmp_path: Path) -> None:
    with fake_redis() as redis_url:
        async with serve(redis_url, tmp_path, gateway_wait_s=0.01) as harness:
            for path, fields in (
                ("responses", {"input": "x"}),
                ("chat/completions", {"messages": user("x")}),
            ):
                status, headers, body = await harness.call("POST", f"/v1/{path}", json=fields)
                assert (status, body["error"]["code"]) == (504, "no_worker")
                assert headers["x-job-id"]
            _, _, page = await harness.call("GET", "/v1/jobs")
            assert [job["cancel_requested"] for job in page["jobs"]] == [True, True]
