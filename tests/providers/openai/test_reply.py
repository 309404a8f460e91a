"""An answer of chat completions, cut anywhere, always gives the same deltas."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.deltas import Delta, ReasoningDelta, ToolCallDelta
from berlin_worker.providers.limits import Limits
from berlin_worker.providers.openai.reply import AnswerDecoder
from tests.support.selection import examples

pytestmark = pytest.mark.unit

LIMITS = Limits(max_line_bytes=1 << 20, max_chunks=100_000, max_text_bytes=1 << 24)
DONE = b"data: [DONE]\n\n"


def chunk(
    delta: Any = None, *, finish: str | None = None, padding: str | None = None, **fields: Any
) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1764412345,
        "model": "gpt-4o-mini",
        "choices": [choice],
        "usage": None,
        **fields,
    }
    if padding is not None:
        value["obfuscation"] = padding
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def decode(
    *pieces: bytes, limits: Limits = LIMITS
) -> tuple[list[Delta], JobError | None, AnswerDecoder]:
    decoder = AnswerDecoder(limits, str)
    found: list[Delta] = []
    for piece in pieces:
        deltas, error = decoder.feed(piece)
        found += deltas
        if error:
            return found, error, decoder
    deltas, error = decoder.finish()
    return found + deltas, error, decoder


def deltas_of(*pieces: bytes) -> list[Delta]:
    found, error, _ = decode(*pieces)
    assert error is None, error
    return found


def failure(*pieces: bytes, limits: Limits = LIMITS) -> JobError:
    _, error, _ = decode(*pieces, limits=limits)
    assert error is not None
    return error


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


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
    """The template's quick way and the decoder give one text, whatever stands in it."""
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
    """Halves of pairs joined, and others replaced."""
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
    ],
)
def test_finish_reason_is_that_of_the_last_choice(sent: str, reason: str) -> None:
    _, error, decoder = decode(
        chunk({"content": "x"}, finish=""), chunk(finish=sent), chunk(choices=[])
    )
    assert error is None  # without [DONE]
    assert decoder.mapper.finish_reason == reason


@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource"])
def test_answer_that_the_server_gave_up_is_retried(reason: str) -> None:
    error = failure(chunk({"content": "x"}), chunk(finish=reason), DONE)
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)


USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(finish="stop"), chunk(choices=[], usage=USAGE)],
        [chunk(finish="stop", usage=USAGE)],
        [chunk({"content": "y"}, usage={"total_tokens": 4}), chunk(finish="stop", usage=USAGE)],
        [chunk(choices=[], usage=USAGE), chunk(finish="stop")],
        [chunk(finish="stop", x_groq={"usage": USAGE})],
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


FILTERED = {
    "index": 0,
    "finish_reason": None,
    "content_filter_results": {},
    "content_filter_offsets": {},
}
WHOLE = {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    "data",
    [
        (chunk({"content": "x"}) + DONE).replace(b"\n\n", b"\r\r"),
        (chunk({"content": "x"}) + DONE).replace(b"\n\n", b"\r\n\r\n"),
        (chunk({"content": "x"}) + DONE).replace(b"data: ", b"data:"),
        b"\xef\xbb\xbfretry: 3000\nid: 1\n" + chunk({"content": "x"}) + b": ping\n\n" + DONE,
        # Azure: the filter's results for the prompt, and for text that is out
        chunk(choices=[], prompt_filter_results=[{"prompt_index": 0}])
        + chunk({"content": "x"}) + chunk(choices=[FILTERED]) + DONE,
        # a proxy that has no stream for a model
        chunk(choices=[{"index": 0, "message": WHOLE, "finish_reason": "stop"}]) + DONE,
        chunk({"content": "x"}) + chunk(choices=[{"delta": None, "message": WHOLE}]) + DONE,
        chunk({"content": "x"}, usage="none") + chunk(finish="", usage=[]) + DONE,
        chunk({"content": "x"}) + chunk(choices=[{"finish_reason": ["stop"]}]) + DONE,
        chunk({"content": "x"}, error=None) + chunk(error={}) + chunk(error="") + DONE,
        chunk({"content": "x"}).replace(b"null", b"NaN") + DONE,
    ],
)  # fmt: skip
def test_odd_servers_are_read(data: bytes) -> None:
    assert deltas_of(data) == ["x"]
    assert deltas_of(*(bytes([byte]) for byte in data)) == ["x"]


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


def test_answer_that_is_not_streamed_is_no_stream() -> None:
    body = {"object": "chat.completion", "choices": [{"message": {"content": "x"}}]}
    error = failure(json.dumps(body).encode())
    assert error.code is ErrorCode.BAD_CHUNK


def test_tool_calls_of_an_answer_that_ends_early_are_begun() -> None:
    found = deltas_of(chunk({"tool_calls": [{"index": 0, "id": "a", "function": {}}]}), DONE)
    assert found == [ToolCallDelta(0, "", "a", "")]
