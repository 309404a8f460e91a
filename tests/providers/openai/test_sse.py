"""Server-sent events, cut anywhere, equal those of a slow and obvious reader."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from berlin_worker.providers.openai.sse import Event, EventReader

pytestmark = pytest.mark.unit

LIMIT = 1 << 20

pieces = st.sampled_from(
    [
        b"data: ", b"data:", b"data", b"data :", b"event: error", b"event", b"event:", b"id: 7",
        b"retry: 10", b"retry", b": ping", b":", b"error: x", b"{", b"}", b'{"a":1}', b"[DONE]",
        b" ", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xef", b"\xbb",
        "wört".encode(), b"\xff", b"\x0b", b"\x1c", b"\xe2\x80\xa8", b"\xc2\x85", b"\0",
    ]
)  # fmt: skip
streams = st.lists(pieces, max_size=30).map(b"".join)


def slow(data: bytes) -> list[Event]:
    """Read the whole stream by the standard, line by line."""
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[Event] = []
    name, buffer = b"", b""
    for line in [*data.split(b"\n"), b""]:  # the last event needs no empty line
        if line == b"":
            if buffer:
                events.append((name, buffer[:-1]))
            name, buffer = b"", b""
        elif b":" in line:
            field, value = line[: line.index(b":")], line[line.index(b":") + 1 :]
            if value[:1] == b" ":
                value = value[1:]
            name = value if field == b"event" else name
            buffer += value + b"\n" if field == b"data" else b""
        else:
            name = b"" if line == b"event" else name
            buffer += b"\n" if line == b"data" else b""
    return events


def read(parts: list[bytes], limit: int = LIMIT) -> tuple[list[Event], EventReader]:
    reader = EventReader(limit)
    events = [event for part in parts for event in reader.feed(part)]
    return events + reader.finish(), reader


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


@given(streams, st.lists(st.integers(0, 200), max_size=8))
@example(b"\xef\xbb\xbf\n\ndata: a\n\n", [1, 3])
@example(b"data: a\r\n\r\ndata: b\r\r", [8, 9, 10])
@example(b"data: a\n\ndata: b\n\n", [9])
@example(b"event: error\n\ndata: a\n\ndata: b\n\n", [14, 23])
def test_events_do_not_depend_on_cuts(data: bytes, places: list[int]) -> None:
    events, reader = read(cut(data, places))
    assert events == slow(data)
    assert not reader.is_full


@given(streams)
def test_single_bytes_give_the_same_events(data: bytes) -> None:
    assert read([bytes([byte]) for byte in data])[0] == slow(data)


def test_comments_ids_and_retries_are_no_events() -> None:
    sent = b": OPENROUTER PROCESSING\n\nretry: 3000\n\nid: 1\n\ndata: x\nid: 2\n: ping\n\n"
    events, reader = read([sent])
    assert events == [(b"", b"x")]
    assert not reader.stray


def test_several_data_lines_are_one_event() -> None:
    assert read([b"data: {\ndata:  1\ndata\ndata:}\n\n"])[0] == [(b"", b"{\n 1\n\n}")]


def test_foreign_lines_are_kept_for_an_error_up_to_16_kib() -> None:
    _, reader = read([b"<html>\n<body>busy</body>\n"])
    assert reader.stray == b"<html>\n<body>busy</body>\n"
    _, reader = read([b"x" * 1000 + b"\n"] * 100)
    assert len(reader.stray) < 2 * 16384


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_limit_of_a_line(end: bytes, size: int) -> None:
    for length in (20, 21):
        line = b"data: " + b"x" * (length - 6)
        sent = b"data: ok" + end + end + line + end + end + b"data: after" + end + end
        parts = [sent[start : start + size] for start in range(0, len(sent), size)]
        events, reader = read(parts, limit=20)
        assert reader.is_full is (length == 21)
        assert events[0] == (b"", b"ok")
        assert len(events) == (1 if reader.is_full else 3)


def test_line_without_an_end_is_not_gathered_beyond_the_limit() -> None:
    reader = EventReader(100)
    assert not reader.feed(b"data: " + b"x" * 50)
    assert not reader.is_full
    assert not reader.feed(b"x" * 50)
    assert reader.is_full


def test_limit_of_an_event_counts_all_its_lines() -> None:
    for lines, is_full in ((100, False), (101, True)):
        _, reader = read([b"data: 123456789\n" * lines + b"\n"], limit=999)
        assert reader.is_full is is_full
    _, reader = read([b"data\n" * 200_000], limit=100_000)  # in linear time
    assert reader.is_full
