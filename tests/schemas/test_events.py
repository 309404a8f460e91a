"""Events: the same value after a round trip, strict in types, lenient in new fields."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import berlin_schemas
from berlin_schemas import (
    Cancelled,
    Chunk,
    Completed,
    ErrorCode,
    ErrorInfo,
    Failed,
    Reasoning,
    Reset,
    Started,
    Terminal,
    Timings,
    ToolCall,
    decode,
    encode,
)
from berlin_schemas.documents import ADAPTERS, json_schema
from berlin_schemas.events import TERMINAL_TYPES

pytestmark = pytest.mark.unit

text = st.text(st.characters(exclude_categories=["Cs"]))
counts = st.integers(min_value=1, max_value=2**53)
common = {
    "job_id": st.from_regex(r"\A[A-Za-z0-9_-]{1,128}\Z"),
    "seq": counts,
    "attempt": counts,
    "ts": st.floats(min_value=0, max_value=1e11),
}
milliseconds = st.floats(min_value=0, max_value=1e12)
timings = st.builds(
    Timings,
    queue_ms=milliseconds,
    login_ms=milliseconds,
    first_chunk_ms=st.none() | milliseconds,
    stream_ms=milliseconds,
    total_ms=milliseconds,
)
errors = st.builds(
    ErrorInfo,
    code=st.sampled_from(ErrorCode),
    message=text,
    retryable=st.booleans(),
    upstream_status=st.none() | st.integers(100, 599),
)
usages = st.none() | st.dictionaries(text, st.integers(0, 2**53))
spent = {"usage": usages, "usage_total": usages}
who = {"provider": st.none() | text, "model": st.none() | text}
events = st.one_of(
    st.builds(Started, **common, **who),
    st.builds(Chunk, **common, content=text.filter(bool)),
    st.builds(Reasoning, **common, content=text.filter(bool)),
    st.builds(
        ToolCall,
        **common,
        index=st.integers(0, 2**53),
        id=st.none() | text,
        name=st.none() | text,
        arguments=text,
    ),
    st.builds(Reset, **common, reason=text),
    st.builds(
        Completed,
        **common,
        finish_reason=st.sampled_from(
            ["stop", "length", "tool_calls", "content_filter", "interrupted"]
        ),
        timings=timings,
        **spent,
        **who,
    ),
    st.builds(Failed, **common, error=errors, **spent),
    st.builds(Cancelled, **common, reason=text, **spent),
)

VALID = jsonschema.Draft202012Validator(json_schema("event", ADAPTERS["event"]))

CHUNK = {
    "v": 1,
    "job_id": "a",
    "seq": 2,
    "attempt": 1,
    "ts": 1790000000.5,
    "type": "chunk",
    "content": "Hi",
}


@given(events)
def test_every_event_comes_back_as_it_was(event):
    data = encode(event)
    assert decode(data) == decode(data.decode()) == event
    assert b"\n" not in data


@given(events)
def test_every_event_is_valid_by_its_schema(event):
    VALID.validate(json.loads(encode(event)))


@given(events, text, st.none() | text | st.integers())
def test_unknown_fields_are_ignored_at_every_level(event, name, value):
    fields = json.loads(encode(event))
    fields.setdefault(f"new {name}", value)
    for part in ("timings", "error"):
        if part in fields:
            fields[part].setdefault(f"new {name}", value)
    assert decode(json.dumps(fields)) == event


@given(events)
def test_terminal_events_are_those_three(event):
    assert (event.type in TERMINAL_TYPES) == isinstance(event, Terminal)
    assert set(TERMINAL_TYPES) == {"completed", "failed", "cancelled"}


def test_chunk_has_the_fields_of_the_contract_and_no_more():
    event = Chunk(job_id="a", seq=2, attempt=1, ts=1790000000.5, content="Hi")
    assert json.loads(encode(event)) == CHUNK


@given(events)
def test_only_nested_fields_are_null(event):
    assert None not in json.loads(encode(event)).values()


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "reasoning", "content": ""},
        {"type": "tool_call", "index": -1, "arguments": ""},
        {"type": "tool_call", "arguments": ""},
        {"type": "tool_call", "index": 0, "arguments": {}},
    ],
)
def test_deltas_that_break_the_contract_are_no_events(fields):
    head = {name: CHUNK[name] for name in ("v", "job_id", "seq", "attempt", "ts")}
    with pytest.raises(ValueError, match="validation error"):
        decode(json.dumps(head | fields))


def test_usage_that_is_not_known_is_left_out():
    spent = Timings(queue_ms=1, login_ms=0, first_chunk_ms=None, stream_ms=2, total_ms=3)
    event = Completed(job_id="a", seq=3, attempt=1, ts=1, finish_reason="stop", timings=spent)
    assert "usage" not in json.loads(encode(event))


@given(
    st.recursive(
        st.floats() | st.integers() | st.text("ab") | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner),
    )
)
def test_usage_holds_only_numbers_of_json(value):
    head = {"v": 1, "job_id": "a", "seq": 1, "attempt": 1, "ts": 1.5, "type": "cancelled"}
    text = json.dumps({**head, "reason": "r", "usage": {"a": value}})  # NaN among them
    event = decode(text.replace("Infinity", "1e400"))
    json.dumps(event.usage, allow_nan=False)
    assert decode(encode(event)) == event
    assert event.usage == {"a": json.loads(json.dumps(value), parse_constant=lambda _: None)}


def test_error_codes_are_those_of_the_contract():
    assert {code.value for code in ErrorCode} == {
        "invalid_job",
        "auth_failed",
        "rate_limited",
        "quota_exceeded",
        "context_length_exceeded",
        "upstream_error",
        "upstream_timeout",
        "bad_chunk",
        "deadline_exceeded",
        "interrupted",
        "too_many_attempts",
        "internal",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": "1"},
        {"job_id": "a\n"},
        {"job_id": ""},
        {"job_id": "x" * 129},
        {"job_id": "٣"},
        {"seq": 0},
        {"seq": "2"},
        {"seq": True},
        {"seq": 2.5},
        {"attempt": 0},
        {"attempt": None},
        {"ts": "now"},
        {"ts": True},
        {"ts": float("nan")},
        {"ts": float("inf")},
        {"type": "chunks"},
        {"type": None},
        {"content": ""},
        {"content": 5},
    ],
    ids=repr,
)
def test_invalid_event_raises_value_error(change):
    with pytest.raises(ValueError):  # noqa: PT011  # any text: it is pydantic's own
        decode(json.dumps(CHUNK | change))


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b"\xff", b'{"type":"chunk"', b"[" * 100_000]
)
def test_data_that_is_no_json_object_raises_value_error(data):
    with pytest.raises(ValueError):  # noqa: PT011  # any text: it is pydantic's own
        decode(data)


@pytest.mark.parametrize("content", ["", "\ud800"])
def test_chunk_that_could_not_be_read_cannot_be_built(content):
    with pytest.raises(ValidationError):
        Chunk(job_id="a", seq=1, attempt=1, ts=1.0, content=content)


def test_package_exports_what_it_lists():
    assert all(hasattr(berlin_schemas, name) for name in berlin_schemas.__all__)
