"""The fast path by a template returns what the decoder of each chunk returns."""

from typing import Any, Final
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from berlin_schemas import ErrorCode
from berlin_worker.providers.deltas import ReasoningDelta, ToolCallDelta
from berlin_worker.providers.limits import Limits
from berlin_worker.providers.openai.reply import AnswerDecoder
from berlin_worker.providers.openai.template import ChunkTemplate
from tests.support.openai_answers import decode
from tests.support.selection import examples

pytestmark = pytest.mark.unit

_LIMITS: Final = Limits(max_line_bytes=1 << 20, max_chunks=100_000, max_text_bytes=1 << 24)
_SHAPES: Final = {
    "content": b'{"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"logprobs":null}]%b}',
    "short": b'{"choices":[{"delta":{"content":"%b"}}]%b}',
    "reasoning": b'{"choices":[{"delta":{"reasoning_content":"%b"},"index":0}],"usage":null%b}',
    "both": b'{"choices":[{"delta":{"reasoning_content":"%b","reasoning":"other"}}]%b}',
    "call": b'{"choices":[{"delta":{"content":"%b",'
    b'"tool_calls":[{"function":{"arguments":"1"}}]}}]%b}',
    "function": b'{"choices":[{"delta":{"content":"%b","function_call":{"arguments":"1"}}}]%b}',
    "one": b'{"choices":{"delta":{"content":"%b"}}%b}',
    "reason": b'{"choices":[{"delta":{"content":"%b"},"finish_reason":"length"}]%b}',
    "usage": b'{"choices":[{"delta":{"content":"%b"}}],"usage":{"total_tokens":1}%b}',
}
_PIECES: Final = (
    *(b'"', b"\\", b'\\"', b"\\n", b"\\u00e9", b"\\ud83d", b"\\ude00", b"\n", b"\x7f", b"\xff"),
    *(b"word", b" ", b"\xc3\xa9", b"\xc3", b"\xa9", b"\xc2\xa0", b"\xe2\x80\xa8", b"}", b"]"),
    *(b'"}}]', b'"},"logprobs":null}]', b'","content":"', b',"obfuscation":"', b'"}\n\ndata: '),
)

insides = st.lists(st.sampled_from(_PIECES), max_size=4).map(b"".join)
paddings = st.none() | st.sampled_from([b"", b"aB3xY", b"-_ +"]) | insides


def _event(shape: str, inside: bytes, padding: bytes | None) -> bytes:
    end = b"" if padding is None else b',"obfuscation":"%b"' % padding
    return b"data: " + _SHAPES[shape] % (inside, end) + b"\n\n"


def _decoded(reads: list[bytes]) -> tuple[Any, ...]:
    """Return text, reasoning, calls, reason, usage, whether every delta has a text, and the code
    of the error, which comes last."""
    found, error, decoder = decode(*reads, limits=_LIMITS)
    thought = [delta.content for delta in found if isinstance(delta, ReasoningDelta)]
    said = [delta for delta in found if isinstance(delta, str)]
    calls = "".join(delta.arguments for delta in found if isinstance(delta, ToolCallDelta))
    ends = (decoder.mapper.finish_reason, decoder.mapper.usage)
    all_full = all(thought) and all(said)
    return "".join(said), "".join(thought), calls, ends, all_full, error and error.code


def _decoded_each(reads: list[bytes]) -> tuple[Any, ...]:
    with mock.patch.object(ChunkTemplate, "of", return_value=None):
        return _decoded(reads)


@settings(max_examples=examples(400))
@example("short", b"", [(b'"', None)], 1)
@example("call", None, [(b"x", None)], 1)
@example("one", None, [(b"x", None)], 1)
@example("both", None, [(b"", None)], 1)
@example("short", b"x", [(b"y", b"z"), (b'y","content":"', b"z")], 2)
@given(
    st.sampled_from(sorted(_SHAPES)),
    st.none() | st.just(b"x1"),
    st.lists(st.tuples(insides, paddings), max_size=6),
    st.integers(1, 4),
)
def test_template_changes_nothing(
    shape: str, first_padding: bytes | None, sent: list[tuple[bytes, bytes | None]], per_read: int
) -> None:
    events = [_event(shape, inside, padding) for inside, padding in sent]
    events.append(b"data: [DONE]\n\n")
    reads = [b"".join(events[at : at + per_read]) for at in range(0, len(events), per_read)]
    reads.insert(0, _event(shape, b"first", first_padding))
    assert _decoded(reads) == _decoded_each(reads)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("padding", [None, b"aB3xY"])
def test_chunk_whose_text_is_missing_is_bad(shape: str, padding: bytes | None) -> None:
    """Prefix and suffix of a template may overlap in such a chunk."""
    whole = _event(shape, b"", padding)
    reads = [_event(shape, b"first", padding), whole.replace(b'""', b'"', 1)]
    assert _decoded(reads)[-1] is ErrorCode.BAD_CHUNK


@pytest.mark.parametrize("shape", ["content", "short"])
@pytest.mark.parametrize("padding", [None, b"aB3xY"])
def test_padding_and_escapes_need_no_decoder(shape: str, padding: bytes | None) -> None:
    decoder = AnswerDecoder(_LIMITS, str)
    decoder.feed(_event(shape, b"first", padding))
    one = _event(shape, b" to\\nken \\u00e9", padding)
    other = _event(shape, "\N{NO-BREAK SPACE}é".encode(), padding and b"x")
    with mock.patch.object(AnswerDecoder, "_decode", side_effect=AssertionError):
        assert decoder.feed(one) == ([" to\nken é"], None)
        assert decoder.feed(one + other * 2) == ([" to\nken é", *2 * ["\N{NO-BREAK SPACE}é"]], None)
        assert decoder.feed(_event(shape, b"", padding)) == ([], None)
