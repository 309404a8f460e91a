"""An answer of chat completions, cut anywhere, always gives the same deltas."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berlin_schemas import ErrorCode
from berlin_worker.providers.deltas import ReasoningDelta, ToolCallDelta
from berlin_worker.providers.limits import Limits
from tests.support.openai_answers import DONE, USAGE, chunk, cut, decode, deltas_of, failure
from tests.support.selection import examples

pytestmark = pytest.mark.unit

texts = st.one_of(
    st.sampled_from(["", " token", '"', "\\", "content", '"content":"', "\n", "é", "😀", "\u2028"]),
    st.sampled_from(["\ud83d", "\ude00"]),
    st.text(max_size=4),
)
parts = st.lists(
    st.tuples(st.sampled_from(["content", "reasoning_content", "reasoning", "refusal"]), texts),
    max_size=12,
)


@settings(max_examples=examples(200))
@given(parts, st.lists(st.integers(0, 5000), max_size=6), st.booleans(), st.booleans())
def test_cuts_and_escapes_change_nothing(
    sent: list[tuple[str, str]], places: list[int], plain: bool, padded: bool
) -> None:
    """The template's fast path and the decoder return one text, whatever it contains."""
    data = b""
    for number, (key, text) in enumerate(sent):
        one = chunk({key: text}, padding="x" * (number % 5) if padded else None)
        if plain and not any("\ud800" <= char <= "\udfff" for char in text):
            value = json.loads(one[6:])
            one = b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
        data += one
    data += chunk(finish="stop") + DONE
    found = deltas_of(*cut(data, places))
    assert found == deltas_of(*(bytes([byte]) for byte in data))
    assert all(found)
    reasoning = "".join(each.content for each in found if isinstance(each, ReasoningDelta))
    text = "".join(each for each in found if isinstance(each, str))
    assert text == whole(text for key, text in sent if key in {"content", "refusal"})
    assert reasoning == whole(text for key, text in sent if key.startswith("reasoning"))


def whole(pieces: Any) -> str:
    """Return the joined pieces: halves of pairs are joined, and single halves replaced."""
    return "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def test_reasoning_precedes_text_of_one_delta() -> None:
    both = {"content": "Yes", "reasoning_content": "Hm", "reasoning": "Hm"}
    assert deltas_of(chunk(both), DONE) == [ReasoningDelta("Hm"), "Yes"]
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]},
        {"type": "text", "text": "Yes"},
    ]
    assert deltas_of(chunk({"content": parts}), DONE) == [ReasoningDelta("Hm"), "Yes"]


def test_chunks_without_deltas_yield_nothing() -> None:
    empty = [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": None, "tool_calls": None, "reasoning_content": None}),
        chunk({"tool_calls": []}),
        chunk(choices=[]),
        chunk(choices=None),
        b": keep-alive\n\n",
        b"data: \n\n",
        b'data: {"type": "ping"}\n\n',
        b'event: ping\ndata: {"choices": []}\n\n',
    ]
    assert deltas_of(*empty, chunk({"content": "x"}), DONE) == ["x"]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("function_call", "tool_calls"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("STOP", "stop"),
        ("SAFETY", "content_filter"),
        ("content-filter", "content_filter"),
        ("tool_use", "tool_calls"),
        ("sensitive", "content_filter"),
    ],
)
def test_finish_reason_is_that_of_the_last_choice(sent: str, reason: str) -> None:
    _, error, decoder = decode(
        chunk({"content": "x"}, finish=""), chunk(finish=sent), chunk(choices=[])
    )
    assert error is None  # without [DONE]
    assert decoder.mapper.finish_reason == reason


@pytest.mark.parametrize(
    "reason", ["abort", "error", "insufficient_system_resource", "network_error", "ERROR"]
)
def test_answer_that_the_server_gave_up_is_retried(reason: str) -> None:
    error = failure(chunk({"content": "x"}), chunk(finish=reason), DONE)
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(finish="stop"), chunk(choices=[], usage=USAGE)],
        [chunk(finish="stop", usage=USAGE)],
        [chunk({"content": "y"}, usage={"total_tokens": 4}), chunk(finish="stop", usage=USAGE)],
        [chunk(choices=[], usage=USAGE), chunk(finish="stop")],
        [chunk(finish="stop", x_groq={"usage": USAGE})],
        [chunk(choices=[{"delta": {}, "finish_reason": "stop", "usage": USAGE}])],  # Moonshot
    ],
)
def test_usage_is_read_with_choices_or_without(chunks: list[bytes]) -> None:
    _, error, decoder = decode(chunk({"content": "x"}), *chunks, DONE)
    assert error is None
    assert decoder.mapper.usage == USAGE


def test_usage_is_known_before_an_error() -> None:
    _, error, decoder = decode(chunk({"content": "x"}, usage=USAGE), b'data: {"error": "x"}\n\n')
    assert error is not None
    assert decoder.mapper.usage == USAGE


def test_answer_needs_its_mark_or_its_reason() -> None:
    text = chunk({"content": "x"})
    for end in (b"", b"data: [DO", chunk(finish="stop")[:-20], b": ping\n\n", b"dat"):
        error = failure(text + end)
        assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True), end
    error = failure()
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)
    for end in (b"data: [DONE]", b"data:[DONE]\n", b"data: [DONE]\r\n\r\n", chunk(finish="stop")):
        assert deltas_of(text + end) == ["x"]
    assert deltas_of(text + chunk(finish="stop")[:-2]) == ["x"]


def test_data_after_the_end_mark_is_ignored() -> None:
    assert deltas_of(chunk({"content": "x"}), DONE + chunk({"content": "y"}) + b"garbage") == ["x"]


def test_other_choices_are_left_out() -> None:
    def choices(*texts: tuple[int, str]) -> bytes:
        return chunk(choices=[{"index": i, "delta": {"content": text}} for i, text in texts])

    sent = [choices((1, "a"), (2, "b")), choices((2, "c")), choices((1, "d"))]
    assert deltas_of(*sent, DONE) == ["a", "d"]


@pytest.mark.parametrize(
    "data",
    [
        b"<html>", b'"text"', b"3", b'{"choices": 3}', b'{"choices": [3]}',
        b'{"choices": [{"delta": []}]}', b'{"choices": [{"delta": {"content": 3}}]}',
        b'{"choices": [{"delta": {"tool_calls": 3}}]}', b"\xff", b'{"choices": [',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_invalid_event_is_a_bad_chunk(data: bytes) -> None:
    error = failure(chunk({"content": "x"}), b"data: " + data + b"\n\n", DONE)
    assert (error.code, error.retryable) == (ErrorCode.BAD_CHUNK, False)


def test_limits() -> None:
    word = chunk({"content": "x"})
    few = Limits(max_line_bytes=400, max_chunks=2, max_text_bytes=10_000)
    found, error, _ = decode(word * 3, limits=few)
    assert found == ["x", "x"]
    assert error
    assert "WORKER_MAX_CHUNKS" in error.message
    assert "WORKER_MAX_LINE_BYTES" in failure(chunk({"content": "x" * 400}), limits=few).message
    assert "WORKER_MAX_TEXT_BYTES" in failure(b": ping\n" * 2000, limits=few).message
    assert decode(chunk({"content": "x"}), DONE + b"x" * 20_000, limits=few)[1] is None


def test_page_is_no_stream() -> None:
    page = b"\n<!DOCTYPE html><html>\n<body>Sign in</body></html>\n"
    for pieces in ([page], [bytes([byte]) for byte in page], [page * 2000]):
        error = failure(*pieces)
        assert (error.code, error.retryable) == (ErrorCode.BAD_CHUNK, False)
        assert "base URL" in error.message


def test_tool_calls_of_an_answer_that_ends_early_are_begun() -> None:
    found = deltas_of(chunk({"tool_calls": [{"index": 0, "id": "a", "function": {}}]}), DONE)
    assert found == [ToolCallDelta(0, "", "a", "")]
