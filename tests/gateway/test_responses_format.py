"""Requests and events of OpenAI's Responses (pure)."""

from typing import Any

import pytest

from berlin_worker.gateway.responses_format import ResponseWriter
from berlin_worker.gateway.responses_request import parse_request

pytestmark = pytest.mark.unit


def test_items_of_a_request_become_messages() -> None:
    wanted = parse_request(
        {
            "model": "m",
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": "Hi"},
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "see"},
                        {"type": "input_image", "image_url": "https://example.org/a.png"},
                    ],
                },
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "7"},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": {}}],
            "max_output_tokens": 9,
            "temperature": 0.5,
            "background": True,
        }
    )
    assert wanted.job["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    ]
    assert wanted.job["options"] == {
        "temperature": 0.5,
        "max_tokens": 9,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    }
    assert (wanted.background, wanted.stream) == (True, False)


def written(events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    writer = ResponseWriter("j1", "m", 1, {})
    made = [*writer.created(), *(each for event in events for each in writer.events(event))]
    return made, writer.response()


def test_reasoning_text_and_calls_are_items_in_their_order() -> None:
    made, response = written(
        [
            {"type": "started", "model": "answers"},
            {"type": "reasoning", "content": "hm"},
            {"type": "chunk", "content": "Hi"},
            {"type": "tool_call", "index": 0, "id": "c1", "name": "f", "arguments": ""},
            {"type": "tool_call", "index": 1, "id": "c2", "name": "g", "arguments": "{"},
            {"type": "tool_call", "index": 1, "arguments": "}"},
            {"type": "completed", "finish_reason": "tool_calls"},
        ]
    )
    assert [event["sequence_number"] for event in made] == list(range(len(made)))
    assert [item["type"] for item in response["output"]] == [
        "reasoning", "message", "function_call", "function_call",
    ]  # fmt: skip
    assert response["output"][3]["arguments"] == "{}"
    assert (response["status"], response["model"]) == ("completed", "answers")
    added = [event["item"]["id"] for event in made if event["type"].endswith("item.added")]
    done = [event["item"]["id"] for event in made if event["type"].endswith("item.done")]
    assert added == done == [item["id"] for item in response["output"]]


@pytest.mark.parametrize(
    ("event", "status", "reason"),
    [
        ({"type": "completed", "finish_reason": "length"}, "incomplete", "max_output_tokens"),
        ({"type": "completed", "finish_reason": "content_filter"}, "incomplete", "content_filter"),
        ({"type": "cancelled", "reason": "requested"}, "cancelled", None),
    ],
)
def test_end_of_a_job_is_the_status(event: dict[str, Any], status: str, reason: str | None) -> None:
    made, response = written([event])
    assert made[-1]["type"] == f"response.{status}"
    assert response["status"] == status
    assert (response["incomplete_details"] or {}).get("reason") == reason
