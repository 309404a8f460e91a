"""The OpenAI dialect: requests as jobs, events as chunks and answers (pure)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.gateway.chat_format import (
    Answer,
    ChatRequest,
    ChunkWriter,
    Head,
    parse_request,
)
from berlin_worker.gateway.problems import Problem, of_terminal

pytestmark = pytest.mark.unit

MESSAGES = [{"role": "user", "content": "Hello"}]


def chunk(text: str) -> dict[str, Any]:
    return {"type": "chunk", "content": text}


def call(index: int, arguments: str, **fields: str) -> dict[str, Any]:
    return {"type": "tool_call", "index": index, "arguments": arguments, **fields}


def completed(**fields: Any) -> dict[str, Any]:
    return {"type": "completed", "finish_reason": "stop", **fields}


def head() -> Head:
    return Head("j1", "m", 1_700_000_000)


def test_request_becomes_a_job_with_the_rest_as_options() -> None:
    body = {
        "model": "gpt-4o",
        "messages": MESSAGES,
        "temperature": 0,
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "max_tokens": None,
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": 1,
        "metadata": {"order": "7"},
        "provider": "vllm",
        "deadline_s": 30,
    }
    wanted = parse_request(body)
    assert wanted.job == {
        "model": "gpt-4o",
        "messages": MESSAGES,
        "metadata": {"order": "7"},
        "provider": "vllm",
        "deadline_s": 30,
        "options": {"temperature": 0, "tools": body["tools"]},
        "on_interrupt": "fail",
    }
    assert (wanted.stream, wanted.include_usage) == (True, True)


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("stream", "yes"),
        ("stream", 1),
        ("stream", []),
        ("stream_options", []),
        ("n", 2),
        ("n", "1"),
        ("n", {}),
        ("n", True),
        ("logprobs", True),
        ("functions", [{"name": "f"}]),
        ("tenant", "other"),
        ("job_id", "mine"),
    ],
)
def test_request_that_cannot_be_answered_names_the_parameter(param: str, value: object) -> None:
    with pytest.raises(Problem) as raised:
        parse_request({"messages": MESSAGES, param: value})
    assert (raised.value.status, raised.value.param) == (400, param)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["stream", "stream_options", "n", "messages", "model", "options", "tenant", "tools", "user"]
)


def outcome(body: dict[str, Any]) -> ChatRequest | Problem:
    try:
        return parse_request(body)
    except Problem as problem:
        return problem


@given(st.dictionaries(FIELDS, JSON))
def test_any_object_is_a_job_or_a_400(body: dict[str, Any]) -> None:
    made = outcome(body)
    if isinstance(made, Problem):
        assert made.status == 400
        assert made.param in {*body, "include_usage"}
    else:
        assert made.job["options"] == {
            name: value
            for name, value in body.items()
            if name in {"tools", "user"} and value is not None
        }


def test_chunks_carry_role_once_then_deltas_reason_and_usage() -> None:
    writer = ChunkWriter(head(), include_usage=True)
    events = [
        {"type": "started", "model": "answers"},
        {"type": "reasoning", "content": "hm"},
        chunk("Hi"),
        call(0, "", id="c1", name="f"),
        call(0, '{"a": 1}'),
        completed(finish_reason="tool_calls", usage={"total_tokens": 5}),
    ]
    chunks = [made for event in events for made in writer.chunks(event)]
    assert {each["model"] for each in chunks} == {"answers"}
    assert {each["id"] for each in chunks} == {"chatcmpl-j1"}
    deltas = [each["choices"][0]["delta"] for each in chunks[:-1]]
    assert deltas == [
        {"role": "assistant", "reasoning_content": "hm"},
        {"content": "Hi"},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "f", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]},
        {},
    ]
    assert [each["choices"][0]["finish_reason"] for each in chunks[:-1]] == [
        None, None, None, None, "tool_calls",
    ]  # fmt: skip
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], {"total_tokens": 5})
    assert all(each["usage"] is None for each in chunks[:-1])


def test_usage_is_left_out_unless_it_is_asked_for() -> None:
    writer = ChunkWriter(head(), include_usage=False)
    chunks = [*writer.chunks(chunk("x")), *writer.chunks(completed(usage={"total_tokens": 5}))]
    assert len(chunks) == 2
    assert not any("usage" in each for each in chunks)


def test_restart_of_a_reply_is_an_error_after_text_only() -> None:
    writer = ChunkWriter(head(), include_usage=False)
    assert writer.chunks({"type": "reset"}) == []
    writer.chunks(chunk("x"))
    with pytest.raises(Problem) as raised:
        writer.chunks({"type": "reset"})
    assert raised.value.code == "interrupted"


def test_answer_without_reset_holds_text_reasoning_and_calls() -> None:
    answer = Answer()
    for event in (
        chunk("lost"),
        {"type": "reset"},
        {"type": "reasoning", "content": "h"},
        {"type": "reasoning", "content": "m"},
        call(1, "{}", id="c2", name="g"),
        call(0, "[", id="c1", name="f"),
        call(0, "]"),
    ):
        answer.add(event)
    made = answer.as_object(head(), completed(finish_reason="tool_calls"))
    message = made["choices"][0]["message"]
    assert message["content"] is None
    assert message["reasoning_content"] == "hm"
    assert [each["function"] for each in message["tool_calls"]] == [
        {"name": "f", "arguments": "[]"}, {"name": "g", "arguments": "{}"},
    ]  # fmt: skip
    assert made["choices"][0]["finish_reason"] == "tool_calls"
    assert "usage" not in made


@given(st.lists(st.text(min_size=1)))
def test_deltas_joined_are_the_answer(texts: list[str]) -> None:
    writer, answer = ChunkWriter(head(), include_usage=False), Answer()
    streamed = ""
    for text in texts:
        answer.add(chunk(text))
        streamed += writer.chunks(chunk(text))[0]["choices"][0]["delta"]["content"]
    made = answer.as_object(head(), completed())
    assert made["choices"][0]["message"]["content"] == streamed == "".join(texts)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("interrupted", "stop"),
        ("new", "stop"),
        (None, "stop"),
    ],
)
def test_unknown_finish_reason_counts_as_stop(reason: object, shown: str) -> None:
    [made] = ChunkWriter(head(), include_usage=False).chunks(completed(finish_reason=reason))
    assert made["choices"][0]["finish_reason"] == shown
    assert made["choices"][0]["delta"] == {"role": "assistant"}


@pytest.mark.parametrize(
    ("code", "status", "shown"),
    [
        ("invalid_job", 400, "invalid_job"),
        ("rate_limited", 429, "rate_limited"),
        ("quota_exceeded", 429, "insufficient_quota"),
        ("context_length_exceeded", 400, "context_length_exceeded"),
        ("auth_failed", 502, "auth_failed"),
        ("upstream_timeout", 504, "upstream_timeout"),
        ("of a later version", 500, "of a later version"),
    ],
)
def test_failed_job_has_status_and_code(code: str, status: int, shown: str) -> None:
    problem = of_terminal({"type": "failed", "error": {"code": code, "message": "why"}})
    assert (problem.status, problem.as_object()["code"]) == (status, shown)
    assert problem.message == "why"


def test_cancelled_job_is_not_retried() -> None:
    assert of_terminal({"type": "cancelled", "reason": "requested"}).status == 400
