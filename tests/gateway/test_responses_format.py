"""Requests and events of OpenAI's Responses (pure)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.gateway.problems import Problem
from berlin_worker.gateway.responses_format import ResponseWriter
from berlin_worker.gateway.responses_request import ResponseRequest, parse_request

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
                {"type": "reasoning", "id": "resp_1_0", "summary": []},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "[]"},
                {"type": "function_call_output", "call_id": "c1", "output": "7"},
                {
                    "type": "function_call_output",
                    "call_id": "c2",
                    "output": [{"type": "input_text", "text": "8"}],
                },
            ],
            "tools": [{"type": "function", "name": "f", "parameters": {}}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {
                "format": {"type": "json_schema", "name": "s", "schema": {}},
                "verbosity": "low",
            },
            "reasoning": {"effort": "low", "summary": "auto"},
            "max_output_tokens": 9,
            "deadline_s": 30,
            "truncation": "disabled",
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
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "[]"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "8"}]},
    ]
    assert wanted.job["deadline_s"] == 30
    assert wanted.job["options"] == {
        "temperature": 0.5,
        "max_tokens": 9,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
        "verbosity": "low",
        "reasoning_effort": "low",
    }
    assert (wanted.background, wanted.stream) == (True, False)


PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
SMALL = PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(st.text(max_size=5), PLAIN)
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "function_call", "reasoning", "input_text"]) | SMALL,
        "role": SMALL,
        "content": SMALL | st.lists(st.fixed_dictionaries({"type": SMALL, "text": SMALL})),
        "output": SMALL,
    },
)
BODIES = st.fixed_dictionaries(
    {"input": st.lists(ITEMS, max_size=3) | SMALL},
    optional={
        "tools": st.lists(ITEMS, max_size=2) | SMALL,
        "text": st.fixed_dictionaries({"format": SMALL}) | SMALL,
        **dict.fromkeys(("background", "stream", "tool_choice", "reasoning", "top_p"), SMALL),
    },
)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "warm"}, "temperature"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"text": {"format": "json"}}, "text"),
        ({"reasoning": "much"}, "reasoning"),
        ({"input": [{"role": "user", "content": ["a"]}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": {}}]}]}, "input"),
        ({"background": {}}, "background"),
    ],
)
def test_request_that_cannot_be_converted_names_the_parameter(
    fields: dict[str, Any], param: str
) -> None:
    made = outcome({"input": "x"} | fields)
    assert isinstance(made, Problem)
    assert (made.status, made.param) == (400, param)


def test_options_of_chats_by_the_same_name_pass_as_they_are() -> None:
    fields = {"tool_choice": "auto", "text": {"format": {"type": "json_object"}}}
    assert parse_request({"input": "x"} | fields).job["options"] == {
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
    }


def outcome(body: dict[str, Any]) -> ResponseRequest | Problem:
    try:
        return parse_request(body)
    except Problem as problem:
        return problem


@given(BODIES)
def test_any_request_is_a_job_or_a_400(body: dict[str, Any]) -> None:
    made = outcome(body)
    if isinstance(made, Problem):
        assert made.status == 400
        assert made.param in body
    else:
        assert isinstance(made.job["messages"], list)
        assert body.get("background") in (None, made.background)


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


def test_reset_discards_what_came_before_it() -> None:
    made, response = written(
        [
            {"type": "started", "model": "m"},
            {"type": "chunk", "content": "wrong"},
            {"type": "tool_call", "index": 0, "id": "c1", "name": "f", "arguments": "{"},
            {"type": "reset", "reason": "worker lost"},
            {"type": "chunk", "content": "right"},
            {"type": "tool_call", "index": 0, "id": "c2", "name": "g", "arguments": "{}"},
            {"type": "completed", "finish_reason": "stop"},
        ]
    )
    assert [event["sequence_number"] for event in made] == list(range(len(made)))
    message, call = response["output"]
    assert message["content"][0]["text"] == "right"
    assert (call["call_id"], call["arguments"]) == ("c2", "{}")
    assert {item["status"] for item in response["output"]} == {"completed"}
    # A reader that gathers the deltas of each item gets no mixture of two attempts.
    gathered: dict[int, str] = {}
    for event in made:
        if event["type"].endswith(".delta"):
            place = event["output_index"]
            gathered[place] = gathered.get(place, "") + event["delta"]
    assert gathered == {0: "wrong", 1: "{", 2: "right", 3: "{}"}
    added = [event["item"]["id"] for event in made if event["type"].endswith("item.added")]
    done = [event["item"]["id"] for event in made if event["type"].endswith("item.done")]
    assert added == done
    assert len(set(added)) == 4


NUMBERS = SMALL | st.floats()
DETAILS = st.fixed_dictionaries({"cached_tokens": NUMBERS, "reasoning_tokens": NUMBERS})


@given(
    st.dictionaries(st.text(max_size=5), NUMBERS)
    | st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            (
                "prompt_tokens", "completion_tokens", "total_tokens",
                "prompt_tokens_details", "completion_tokens_details",
            ),
            NUMBERS | DETAILS,
        ),
    )
    | SMALL
)  # fmt: skip
def test_any_usage_is_shown_as_whole_numbers(usage: Any) -> None:
    _, response = written([{"type": "completed", "finish_reason": "stop", "usage": usage}])
    shown = response["usage"]
    if not isinstance(usage, dict):
        assert shown is None
        return
    counts = [shown["input_tokens"], shown["output_tokens"], shown["total_tokens"]]
    counts += [*shown["input_tokens_details"].values(), *shown["output_tokens_details"].values()]
    assert all(type(count) is int for count in counts)
    assert shown["total_tokens"] == counts[0] + counts[1] or (
        shown["total_tokens"] == usage["total_tokens"]
    )
