"""The reply of the upstream, cut anywhere, always gives the same deltas."""

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.limits import Limits
from berlin_worker.providers.ndjson import Decoded, ReplyDecoder

pytestmark = pytest.mark.unit

LIMITS = Limits(max_line_bytes=1 << 20, max_chunks=100_000, max_text_bytes=1 << 24)

# Text as it may come in one delta: also halves of surrogate pairs, and all characters that some
# readers take for the end of a line.
odd = st.sampled_from(["\ud83d", "\ude00", "\u2028", "\x85", "\x0b", "\x1c", "\r", "\n", "é", "😀"])
deltas = st.lists(st.lists(st.one_of(odd, st.text(max_size=3)), max_size=4).map("".join))


def decode(pieces: list[bytes], limits: Limits = LIMITS) -> Decoded:
    decoder = ReplyDecoder(limits, lambda line: line.decode(errors="replace"))
    found: list[str] = []
    for piece in pieces:
        got, error = decoder.feed(piece)
        found += got
        if error:
            return found, error
    got, error = decoder.finish()
    return found + got, error


def texts(*pieces: bytes) -> list[str]:
    found, error = decode(list(pieces))
    assert error is None
    return found


def line(content: str, *, ascii_only: bool = True, end: bytes = b"\n") -> bytes:
    return json.dumps({"content": content}, ensure_ascii=ascii_only).encode() + end


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def whole(text: str) -> str:
    """Return ``text`` with halves of pairs joined or replaced: the rules once more, naively."""
    joined = re.sub(
        "[\ud800-\udbff][\udc00-\udfff]",
        lambda pair: pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"),
        text,
    )
    return re.sub("[\ud800-\udfff]", "\ufffd", joined)


@given(deltas, st.lists(st.integers(min_value=0)), st.lists(st.sampled_from([b"\n", b"\r\n"])))
def test_any_cutting_of_any_deltas_gives_the_same_text(
    contents: list[str], places: list[int], ends: list[bytes]
) -> None:
    ends += [b"\n"] * len(contents)
    data = b"".join(line(text, end=end) for text, end in zip(contents, ends, strict=False))
    found, error = decode(cut(data, places))
    assert error is None
    assert "".join(found) == whole("".join(contents))
    assert all(found)
    assert found == texts(data)
    "".join(found).encode()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.lists(st.integers(0)))
def test_deltas_of_valid_text_are_unchanged(contents: list[str], places: list[int]) -> None:
    data = b"".join(line(text, ascii_only=False) for text in contents)
    assert texts(*cut(data, places)) == [text for text in contents if text]


@given(
    st.lists(st.sampled_from([line("ab"), b"\n", b"junk\n", line("x" * 30), b"{}\n"])),
    st.lists(st.integers(min_value=0)),
)
def test_limits_and_bad_lines_do_not_depend_on_cuts(lines: list[bytes], places: list[int]) -> None:
    limits = Limits(max_line_bytes=40, max_chunks=6, max_text_bytes=100)
    data = b"".join(lines)
    at_once, error = decode([data], limits)
    in_pieces, same = decode(cut(data, places), limits)
    assert in_pieces == at_once
    assert (same and same.code) == (error and error.code)


def test_reply_may_arrive_byte_by_byte() -> None:
    data = line("Grüße 😀", ascii_only=False) + line("\u2028x\x85y", ascii_only=False) + line("!")
    assert texts(*(bytes([byte]) for byte in data)) == ["Grüße 😀", "\u2028x\x85y", "!"]


def test_surrogate_pair_split_over_two_deltas_is_joined() -> None:
    assert texts(line("a\ud83d"), line("\ude00b")) == ["a", "😀b"]


def test_halves_of_a_pair_are_joined_across_an_empty_delta() -> None:
    assert texts(line("\ud83d"), line(""), b"\n", line("\ude00")) == ["😀"]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (["\ud83d"], ["\ufffd"]),
        (["x\ude00"], ["x\ufffd"]),
        (["\ud83d", "x"], ["\ufffdx"]),
        (["\ud83d", "\ud83d", "\ude00"], ["\ufffd", "😀"]),
        (["\ud83dx\ude00"], ["\ufffdx\ufffd"]),
    ],
)
def test_half_a_pair_alone_becomes_the_replacement_character(
    contents: list[str], expected: list[str]
) -> None:
    assert texts(*map(line, contents)) == expected


def test_last_line_needs_no_newline() -> None:
    assert texts(line("a"), line("b", end=b"")) == ["a", "b"]


def test_blank_lines_and_carriage_returns_are_skipped() -> None:
    assert texts(b"\n\r\n  \t\n", line("a", end=b"\r\n"), b"\r\n\n") == ["a"]


def test_line_of_300_kb_is_accepted() -> None:
    long = "x" * 300_000
    assert texts(*cut(line(long), list(range(0, 300_000, 1000)))) == [long]


def test_empty_deltas_are_not_published() -> None:
    assert texts(line(""), line("a"), line("")) == ["a"]


def test_byte_order_mark_is_ignored() -> None:
    assert texts(b"\xef\xbb\xbf" + line("a")) == ["a"]


def test_last_of_two_equal_keys_counts() -> None:
    assert texts(b'{"content": "a", "content": "b", "more": [1, {}]}') == ["b"]


BAD = [
    b"<html>busy</html>",
    b'{"code": 500, "message": "busy"}',
    b'{"content": null}',
    b'{"content": 1}',
    b'{"content": ["a"]}',
    b'["content"]',
    b'"content"',
    b"null",
    b'{"content": "a"} {"content": "b"}',
    b'{"content": "\xff"}',
    b'data: {"content": "a"}',
    b"[" * 100_000,
    b"9" * 5_000,
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad[:30])
@pytest.mark.parametrize("end", [b"\n", b""], ids=["line", "end of body"])
def test_line_without_content_is_a_bad_chunk_after_the_good_ones(bad: bytes, end: bytes) -> None:
    found, error = decode([line("a") + line("b") + bad + end])
    assert found == ["a", "b"]
    assert isinstance(error, JobError)
    assert error.code is ErrorCode.BAD_CHUNK
    assert not error.retryable
    assert bad.decode(errors="replace") in error.message


def test_line_over_the_limit_is_refused_before_it_ends() -> None:
    limits = Limits(max_line_bytes=100, max_chunks=10, max_text_bytes=10_000)
    found, error = ReplyDecoder(limits, bytes.decode).feed(line("a") + b'{"content": "' + b"x" * 99)
    assert found == ["a"]
    assert error is not None
    assert error.code is ErrorCode.UPSTREAM_ERROR
    assert not error.retryable
    assert "WORKER_MAX_LINE_BYTES" in error.message


def test_chunks_over_the_limit_are_refused_after_those_within_it() -> None:
    limits = Limits(max_line_bytes=100, max_chunks=2, max_text_bytes=10_000)
    assert decode([line("a") * 2], limits) == (["a", "a"], None)
    found, error = decode([line("a") * 3], limits)
    assert found == ["a", "a"]
    assert error is not None
    assert "WORKER_MAX_CHUNKS" in error.message


def test_half_a_pair_at_the_end_counts_as_a_chunk_too() -> None:
    limits = Limits(max_line_bytes=100, max_chunks=1, max_text_bytes=10_000)
    found, error = decode([line("a"), line("\ud83d")], limits)
    assert found == ["a"]
    assert error is not None


def test_bytes_within_the_limit_are_delivered_in_any_framing() -> None:
    limits = Limits(max_line_bytes=100, max_chunks=10, max_text_bytes=3 * len(line("a")) + 1)
    found, error = decode([line("a") * 9], limits)
    assert found == ["a", "a", "a"]
    assert error is not None


def test_bytes_over_the_limit_are_refused_even_if_they_are_blank() -> None:
    limits = Limits(max_line_bytes=100, max_chunks=10, max_text_bytes=1000)
    found, error = decode([line("a"), b"\n" * 2000], limits)
    assert found == ["a"]
    assert error is not None
    assert "WORKER_MAX_TEXT_BYTES" in error.message


# JSON as it may stand in a line, with halves of surrogate pairs, which JSON spells as escapes.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | deltas.map("".join),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(json_values, st.booleans(), st.integers(min_value=1))
def test_beginning_of_json_at_the_end_of_the_body_is_a_cut(
    value: object, ascii_only: bool, place: int
) -> None:
    text = json.dumps({"content": 1, "more": value}, ensure_ascii=ascii_only)
    data = text.encode("utf-8", "replace")  # halves of pairs stand in no UTF-8
    found, error = decode([line("a") + data[: place % len(data) or 1]])
    assert found == ["a"]
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_line_cut_at_any_byte_is_whole_or_a_cut(ascii_only: bool) -> None:
    last = b"\xef\xbb\xbf" + line("Grüße 😀 \\u", ascii_only=ascii_only, end=b"")
    for place in range(1, len(last)):
        found, error = decode([line("a"), last[:place]])
        assert found == ["a"]
        assert error is not None, last[:place]
        assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)
    assert texts(line("a"), last) == ["a", "Grüße 😀 \\u"]


@pytest.mark.parametrize(
    "beginning",
    [
        b'{"content": "a"', b"{", b'{"content": "\\ud83d x', b'{"content": "\\\\ud83d',
        b'{"content": "\xc3', b'{"content": nul', b"[1, 2", b"nul", b'"half', b"-", b"\xef", b" {",
    ],
)  # fmt: skip
def test_half_a_line_is_a_cut_only_at_the_end_of_the_body(beginning: bytes) -> None:
    _, error = decode([line("a") + beginning])
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.UPSTREAM_ERROR, True)
    assert "middle of a line" in error.message
    _, error = decode([line("a") + beginning + b"\n"])
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.BAD_CHUNK, False)


@pytest.mark.parametrize(
    "never",
    [
        b"<!DOCTYPE html><ht", b'{"content": "a"} {', b'{"content": "a"},', b'{"content": "a"}]',
        b"]", b"}", b"{]", b'{"content": a', b"{'content", b'{"content": "\x01', b'{"content": 01',
        b'{"content" "', b'{"content": "\\x', b'{"content": "\xff', b"data: {", b"busy", b"12 1",
        b'{"code": 500}', b"[]", b"12", b"event: message",
    ],
)  # fmt: skip
def test_invalid_last_line_is_a_bad_chunk(never: bytes) -> None:
    found, error = decode([line("a") + never])
    assert found == ["a"]
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.BAD_CHUNK, False)


def test_bad_line_is_kept_with_the_following_text() -> None:
    decoder = ReplyDecoder(LIMITS, lambda line: line.decode(errors="replace"))
    _, error = decoder.feed(line("a") + b'{\n  "error": "busy"\n' + b"}")
    assert error is not None
    assert decoder.bad == b'{\n  "error": "busy"\n}'


def test_bad_last_line_without_a_newline_is_kept_once() -> None:
    decoder = ReplyDecoder(LIMITS, lambda line: line.decode(errors="replace"))
    assert decoder.feed(line("a") + b'{"error": "busy"}') == (["a"], None)
    _, error = decoder.finish()
    assert error is not None
    assert decoder.bad.strip() == b'{"error": "busy"}'
