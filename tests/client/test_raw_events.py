"""Events as bytes: the short way and the decoder accept and refuse the same bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import Chunk, Event, Reasoning, ToolCall, encode
from berlin_worker.client import entries
from berlin_worker.client.entries import parse_message
from berlin_worker.client.raw_events import RawEvent, parse_raw

pytestmark = pytest.mark.unit

JOB = "job-1"
text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
heads: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "job_id": st.just(JOB),
        "seq": st.integers(1, 10**16),
        "attempt": st.integers(1, 99),
        "ts": st.floats(allow_nan=False, allow_infinity=False) | st.floats(1.6e9, 1.9e9),
        "db": st.integers(0, 12),
    }
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Draw an event of a type that comes often."""
    head = draw(heads)
    if draw(st.booleans()):
        kind = draw(st.sampled_from([Chunk, Reasoning]))
        return kind(**head, content=draw(text))
    return ToolCall(
        **head,
        index=draw(st.integers(0, 3)),
        id=draw(st.none() | text),
        name=draw(st.none() | text),
        arguments=draw(st.text(st.characters(codec="utf-8"), max_size=30)),
    )


def decoded(data: bytes) -> tuple[int, RawEvent | None, int] | None:
    """Return what ``parse_raw`` must return, by the decoder alone."""
    found = parse_message(JOB, data)
    if found is None:
        return None
    seq, event, database = found
    return seq, None if event is None else RawEvent(seq, event.type, data), database


@given(events())
def test_event_of_a_worker_is_found_as_the_decoder_finds_it(event: Event) -> None:
    assert parse_raw(JOB, encode(event)) == decoded(encode(event))


MUTATIONS = [
    b'"', b"\\", b"\n", b"\r", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u0041", b"\\x",
    b"{", b"}", b",", b'","type":"completed', b'","seq":1,"content":"', b" ", b"0", b"-", b"1e999",
    b"\xe2\x80\xa8", b"\x7f",
]  # fmt: skip


@given(
    events(),
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 4), st.sampled_from(MUTATIONS)), max_size=3
    ),
)
def test_changed_bytes_are_accepted_by_both_ways_or_by_none(
    event: Event, changes: list[tuple[int, int, bytes]]
) -> None:
    data = encode(event)
    for place, cut, new in changes:
        at = place % (len(data) + 1)
        data = data[:at] + new + data[at + cut :]
    assert parse_raw(JOB, data) == decoded(data)


@pytest.mark.parametrize(
    "event",
    [
        Chunk(job_id=JOB, seq=7, attempt=1, ts=1764422345.123456, content='a\n"b\\ €'),
        Reasoning(job_id=JOB, seq=7, attempt=2, ts=1764422345.0, db=3, content="\U0001f600"),
        ToolCall(job_id=JOB, seq=7, attempt=1, ts=1764422345.5, index=0, id="c", name="f"),
        ToolCall(job_id=JOB, seq=7, attempt=1, ts=1764422345.5, index=12, arguments='{"a": "'),
    ],
)
def test_frequent_events_are_not_decoded(event: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "parse_message", None)
    assert parse_raw(JOB, encode(event)) == (
        7, RawEvent(7, event.type, encode(event)), event.db
    )  # fmt: skip


def test_event_of_another_job_version_or_order_is_decoded() -> None:
    own = {"v": 1, "job_id": JOB, "seq": 7, "attempt": 1, "ts": 1.5, "type": "chunk"}
    for changed in (
        own | {"content": "x", "job_id": "another"},
        own | {"content": "x", "v": 2},
        own | {"content": ""},
        own | {"content": "x", "later": 1},
        own | {"type": "thought"},
        dict(reversed((own | {"content": "x"}).items())),
    ):
        data = json.dumps(changed, separators=(",", ":")).encode()
        assert parse_raw(JOB, data) == decoded(data)
