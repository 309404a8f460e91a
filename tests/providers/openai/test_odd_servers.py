"""Answers that break the protocol, as servers in use send them, can be read."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.providers.deltas import ReasoningDelta, ToolCallDelta
from berlin_worker.providers.limits import Limits
from tests.support.openai_answers import DONE, USAGE, chunk, cut, decode, deltas_of, failure

pytestmark = pytest.mark.unit

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
        # Azure: the filter's results for the prompt, and for text that was sent
        chunk(choices=[], prompt_filter_results=[{"prompt_index": 0}])
        + chunk({"content": "x"}) + chunk(choices=[FILTERED]) + DONE,
        # a proxy that has no stream for a model
        chunk(choices=[{"index": 0, "message": WHOLE, "finish_reason": "stop"}]) + DONE,
        chunk({"content": "x"}) + chunk(choices=[{"delta": None, "message": WHOLE}]) + DONE,
        chunk({"content": "x"}, usage="none") + chunk(finish="", usage=[]) + DONE,
        chunk({"content": "x"}) + chunk(choices=[{"finish_reason": ["stop"]}]) + DONE,
        chunk({"content": "x"}, error=None) + chunk(error={}) + chunk(error="") + DONE,
        chunk({"content": "x"}).replace(b"null", b"NaN") + DONE,
        # the older protocol, completions
        chunk(choices=[{"text": "x", "finish_reason": "stop"}]),
        chunk({"content": {"type": "text", "text": "x"}}) + DONE,
        chunk({"content": ["x", None]}).replace(b", null", b"").replace(b",null]", b"]") + DONE,
        chunk(choices=[None, {"delta": {"content": "x", "tool_calls": [None]}}]) + DONE,
        # no empty line between the events, as SGLang and vLLM after an error
        chunk({"content": "x"}, finish="stop").replace(b"\n\n", b"\n") + DONE,
        (chunk({"content": "x"}) + chunk(finish="stop") + DONE).replace(b"\n\n", b"\n"),
        chunk({"content": "x"}) + b'data: "[DONE]"\n\n',
        chunk({"content": "x"}) + b"data: [done]\n\n",
    ],
)  # fmt: skip
def test_odd_servers_are_read(data: bytes) -> None:
    assert deltas_of(data) == ["x"]
    assert deltas_of(*(bytes([byte]) for byte in data)) == ["x"]


def test_invalid_utf_8_and_bare_control_characters_are_read() -> None:
    """Invalid UTF-8 becomes U+FFFD (WHATWG): some servers cut a character in two."""
    sent = [b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % text
            for text in (b"caf\xe9", b"\xf0\x9f", b"a\tb")]  # fmt: skip
    assert deltas_of(*sent, DONE) == ["caf\ufffd", "\ufffd", "a\tb"]


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_may_be_in_parts(key: str) -> None:
    for value in ([{"type": "text", "text": "Hm"}], {"content": "Hm"}, ["H", {"thinking": "m"}]):
        found = deltas_of(chunk({"content": "Yes", key: value}), DONE)
        assert found[1:] == ["Yes"]
        assert isinstance(found[0], ReasoningDelta)
        assert sorted(found[0].content) == ["H", "m"]


# LiteLLM pull request 32237: vLLM and SGLang, the mark is the second line of the error's event
ONE_LINE_END = b"""data: {"error": {"object": "error", "message": "The model is not multimodal.",\
 "type": "BadRequestError", "param": null, "code": 400}}
data: [DONE]
"""


@pytest.mark.parametrize(
    ("data", "message", "retryable"),
    [
        (ONE_LINE_END, "not multimodal", False),
        (ONE_LINE_END + b"\n", "not multimodal", False),
        (b"event: error\ndata: the model has crashed\n\n", "the model has crashed", True),
        (b"event: error\ndata: the model has crashed", "the model has crashed", True),
        (b'event: error\ndata: "the model has crashed"\n\n', "the model has crashed", True),
        (b'event: error\ndata: {"message": "bad", "code": 400}\n\n', "bad", False),
        (b"event: error\ndata: {}\n\n", "sent an error", True),
    ],
)
def test_error_in_a_stream_keeps_its_words(data: bytes, message: str, retryable: bool) -> None:
    error = failure(chunk({"content": "x"}), data, DONE)
    assert message in error.message
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, retryable)


def test_call_of_the_older_protocol_is_a_tool_call() -> None:
    pieces = [{"name": "f", "arguments": "{"}, {"arguments": "}"}]
    data = b"".join(chunk({"function_call": piece}) for piece in pieces)
    first, second = deltas_of(data, chunk(finish="function_call"))
    assert isinstance(first, ToolCallDelta)
    assert (first.name, first.arguments, second) == ("f", "{", ToolCallDelta(0, "}"))


@pytest.mark.parametrize("delta", [{"content": [3]}, {"content": [{"thinking": [3]}]}])
def test_parts_of_no_known_form_are_a_bad_chunk(delta: Any) -> None:
    assert failure(chunk(delta)).code is ErrorCode.BAD_CHUNK


def test_half_a_pair_meets_its_other_half_in_a_chunk_like_the_one_before() -> None:
    for key in ("content", "reasoning"):
        words = [chunk({key: word}) for word in ("a", "\ud83d", "\ude00", "b")]
        found = deltas_of(*(half + b": ping\n\n" for half in words), DONE)
        assert [getattr(each, "content", each) for each in found] == ["a", "😀", "b"]


def test_text_and_error_without_a_line_between_are_both_read() -> None:
    found, error, _ = decode(chunk({"content": "x"}).replace(b"\n\n", b"\n") + ONE_LINE_END)
    assert found == ["x"]
    assert error is not None
    assert error.upstream_status == 400


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGE = {"role": "assistant", "content": "x", "reasoning": "Hm", "tool_calls": [CALL]}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("length", [1, 50_000])
def test_answer_in_one_piece_is_read(indent: int | None, length: int) -> None:
    """Some servers, and proxies before models without a stream, do not stream all answers."""
    text = "x" * length
    choice = {"index": 0, "message": {**MESSAGE, "content": text}, "finish_reason": "tool_calls"}
    body = {"object": "chat.completion", "choices": [choice], "usage": USAGE}
    data = json.dumps(body, indent=indent).encode()
    for pieces in (cut(data, [1, 100, 20_000]), cut(b"\n" + data + b"\n", [2])):
        found, error, decoder = decode(*pieces)
        assert error is None
        assert found == [ReasoningDelta("Hm"), text, ToolCallDelta(0, "{}", "a", "f")]
        assert (decoder.mapper.finish_reason, decoder.mapper.usage) == ("tool_calls", USAGE)
    assert failure(data[:-1]).code is ErrorCode.BAD_CHUNK
    few = Limits(max_line_bytes=100, max_chunks=2, max_text_bytes=1 << 24)
    assert failure(data, limits=few).code is ErrorCode.BAD_CHUNK


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"choices": [{"message": {"content": 3}}]}, ErrorCode.BAD_CHUNK),
        ({"choices": [{"error": {"code": 429, "message": "x"}}]}, ErrorCode.RATE_LIMITED),
        ({"choices": [], "message": "x"}, ErrorCode.UPSTREAM_ERROR),
        ({"model": "m", "done": True}, ErrorCode.BAD_CHUNK),  # Ollama's own protocol
    ],
)
def test_json_that_is_no_answer_is_no_stream(body: Any, code: ErrorCode) -> None:
    assert failure(json.dumps(body).encode()).code is code


_CHOICE: Final = {
    "index": 0,
    "delta": {
        "content": [{"thinking": [{"text": "Hm"}]}, "x"],
        "reasoning": "Hm",
        "refusal": "no",
        "tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"a": 1}}}],
        "function_call": {"name": "f", "arguments": "{"},
    },
    "message": {"content": "x"},
    "text": "x",
    "finish_reason": "stop",
    "usage": {"total_tokens": 1},
    "error": None,
}
_ERROR: Final = {"message": [{"loc": ["a"], "msg": "b"}], "type": "x", "code": 1, "status": 2}
_SAMPLES: Final = (
    {"choices": [_CHOICE], "usage": {"total_tokens": 1}, "x_groq": {"usage": {}}, "error": None},
    {"choices": {"delta": {"content": "x"}}},
    {"choices": [{"message": {"content": "x"}}]},
    {"choices": [{"text": "x"}]},
    {"choices": [{"error": _ERROR}]},
    {"error": {**_ERROR, "metadata": {"raw": "y"}}, "code": 3},
    {"detail": [{"loc": ["a"], "msg": "b"}]},
    {"error": {"message": {"detail": [{"error": "x"}]}}},
)
_NESTS: Final = (("[", "]"), ('{"error":', "}"), ('{"message":[', "]}"), ('{"thinking":[', "]}"))
_VALUES: Final = (
    *("null", "true", "0", "-1.5", "1e999", "NaN", "9" * 5000, '"x"', '"500"', '"\\ud800"'),
    *('"{\\"error\\":[1]}"', "[]", "{}", "[null]", "[[]]", "[{}]", '["x"]', "[0, 1]"),
    *(start * depth + end * depth for start, end in _NESTS for depth in (90, 950)),
)


def _with_mark(value: Any) -> Iterator[Any]:
    """Yield ``value`` once for each place in it, with a mark in that place."""
    yield "MARK"
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        for marked in _with_mark(item) if isinstance(item, dict | list) else ["MARK"]:
            yield (
                {**value, key: marked}
                if isinstance(value, dict)
                else [*value[:key], marked, *value[key + 1 :]]
            )


_MARKED: Final = [json.dumps(marked) for sample in _SAMPLES for marked in _with_mark(sample)]


@pytest.mark.parametrize("value", _VALUES, ids=lambda value: f"{value[:16]}:{len(value)}")
def test_no_value_in_any_place_raises(value: str) -> None:
    text = chunk({"content": "x"})
    for marked in _MARKED:
        data = marked.replace('"MARK"', value).encode()
        decode(text, b"data: " + data + b"\n\n", text)
        decode(data)
