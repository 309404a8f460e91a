"""OpenAI's background mode by the official client: create, follow, come back, cancel."""

import asyncio
from typing import Any

import openai
import pytest

from berlin_worker.gateway import gateway
from tests.gateway.conftest import Harness

pytestmark = pytest.mark.contract


def client(harness: Harness) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=harness.url + "/v1", api_key=harness.keys["acme"])


async def test_response_runs_in_the_background_until_it_is_retrieved(harness: Harness) -> None:
    async with client(harness) as ai:
        made = await ai.responses.create(model="m1", input="one two", background=True)
        assert made.status in {"queued", "in_progress", "completed"}
        async with asyncio.timeout(60):
            while made.status != "completed":
                made = await ai.responses.retrieve(made.id)
    assert made.output_text == "one two "
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens) == (3, 2)


async def test_stream_resumes_after_every_sequence_number(harness: Harness) -> None:
    async with client(harness) as ai:
        stream = await ai.responses.create(
            model="m1", input="one two", background=True, stream=True
        )
        events = [event async for event in stream]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [event.type for event in events] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        response_id = events[0].response.id  # type: ignore[union-attr]  # the first event has one
        for number in range(len(events)):
            again = await ai.responses.retrieve(response_id, stream=True, starting_after=number)
            assert [event async for event in again] == events[number + 1 :]


async def test_response_whose_log_is_slow_is_never_shown_as_queued(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(harness) as ai:
        done = await ai.responses.create(model="m1", input="one two")
    monkeypatch.setattr(gateway, "_AT_ONCE_S", 0.0)
    status, _, shown = await harness.call("GET", f"/v1/responses/{done.id}")
    assert (status, shown["status"]) == (200, "completed")
    assert shown["output"][0]["content"][0]["text"] == "one two "
    harness.gateway.lookup_s = 0.0
    status, _, answer = await harness.call("GET", f"/v1/responses/{done.id}")
    assert (status, answer["error"]["code"]) == (503, "unavailable")


async def test_response_is_cancelled(harness: Harness) -> None:
    async with client(harness) as ai:
        made = await ai.responses.create(model="m1", input="one HANG", background=True)
        cancelled = await ai.responses.cancel(made.id)
        assert cancelled.status == "cancelled"
        assert (await ai.responses.retrieve(made.id)).status == "cancelled"


async def test_failed_response_carries_its_error(harness: Harness) -> None:
    async with client(harness) as ai:
        made = await ai.responses.create(model="m1", input="FAIL upstream_timeout")
    assert made.status == "failed"
    assert made.error is not None
    assert made.error.code == "upstream_timeout"


async def test_response_of_another_tenant_is_not_found(harness: Harness) -> None:
    async with client(harness) as ai:
        made = await ai.responses.create(model="m1", input="one", background=True)
        other = ai.with_options(api_key=harness.keys["other"])
        for call in (other.responses.retrieve, other.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                await call(made.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools"),
    ],
)
async def test_unsupported_request_names_the_parameter(
    harness: Harness, fields: dict[str, Any], param: str
) -> None:
    status, _, body = await harness.call("POST", "/v1/responses", json={"model": "m1"} | fields)
    assert (status, body["error"]["param"]) == (400, param)
