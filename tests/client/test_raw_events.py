"""Events as bytes: the short way and the decoder accept and refuse the same bytes."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import encode
from berlin_worker.client import entries
from berlin_worker.client.entries import parse_message
from berlin_worker.client.raw_events import RawEvent, parse_raw
from berlin_worker.jobs.job_log import Batch, JobLog
from berlin_worker.providers.deltas import Delta, ReasoningDelta, ToolCallDelta

pytestmark = pytest.mark.unit

JOB = "job-1"
text = st.text(
    st.characters() | st.sampled_from('"\\/\x00\x1f\x7f\u2028\u2029\ud800\udfff\U0001f600'),
    min_size=1,
    max_size=30,
)
deltas = (
    text
    | st.builds(ReasoningDelta, text)
    | st.builds(ToolCallDelta, st.integers(0, 99), text, st.none() | text, st.none() | text)
)


class Queue:
    """What a log needs of a journal."""

    full = False

    def added(self, log: JobLog, size: int, *, first: bool) -> None:
        """Take no notice."""

    def forget(self, batch: Batch) -> None:
        """Take no notice."""

    async def wait_for_room(self) -> None:
        """Return at once."""


def written(delta: Delta, *, seq: int = 7, attempt: int = 1, database: int = 0) -> bytes:
    """Return the bytes that a worker writes for ``delta``."""
    log = JobLog(
        Queue(),
        JOB,
        attempt,
        owner="w/1",
        seq=seq - 1,
        chunks=seq - 2,
        database=database,
        on_fenced=lambda: None,
    )
    log.chunk([delta])
    [data] = log.take().events
    return data


events = st.builds(
    written,
    deltas,
    seq=st.integers(3, 10**16),
    attempt=st.integers(1, 10**10),
    database=st.integers(0, 12),
)


def decoded(data: bytes) -> tuple[int, RawEvent | None, int] | None:
    """Return what ``parse_raw`` must return, by the decoder alone."""
    found = parse_message(JOB, data)
    if found is None:
        return None
    seq, event, database = found
    if event is None:
        return seq, None, database
    return seq, RawEvent(seq, event.type, data if is_strict(data) else encode(event)), database


def is_strict(data: bytes) -> bool:
    with contextlib.suppress(ValueError):
        json.dumps(json.loads(data), allow_nan=False)
        return True
    return False


@given(events)
def test_event_of_a_worker_is_found_as_the_decoder_finds_it(data: bytes) -> None:
    assert parse_raw(JOB, data) == decoded(data)


MUTATIONS = [
    b'"', b"\\", b"\n", b"\r", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u0041", b"\\x",
    b"{", b"}", b",", b'","type":"completed', b'","seq":1,"content":"', b" ", b"0", b"-", b"1e999",
    b"\xe2\x80\xa8", b"\x7f",
]  # fmt: skip


@given(
    events,
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 4), st.sampled_from(MUTATIONS)), max_size=3
    ),
)
def test_changed_bytes_are_accepted_by_both_ways_or_by_none(
    data: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    for place, cut, new in changes:
        at = place % (len(data) + 1)
        data = data[:at] + new + data[at + cut :]
    assert parse_raw(JOB, data) == decoded(data)


@pytest.mark.parametrize(
    ("delta", "kind"),
    [
        ('a\n"b\\ \x01 €', "chunk"),
        (ReasoningDelta("\U0001f600"), "reasoning"),
        (ToolCallDelta(0, "", id="c", name="f"), "tool_call"),
        (ToolCallDelta(12, '{"a": "'), "tool_call"),
    ],
)
@pytest.mark.parametrize("database", [0, 3])
def test_event_that_comes_often_is_not_decoded(
    delta: Delta, kind: str, database: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "parse_message", None)
    data = written(delta, database=database)
    assert parse_raw(JOB, data) == (7, RawEvent(7, kind, data), database)


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


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e400", b"1e3"])
@pytest.mark.parametrize("place", [b'"usage":{"a":%b}', b'"later":[%b]'])
def test_event_is_json_for_every_parser(number: bytes, place: bytes) -> None:
    data = b'{"v":1,"job_id":"job-1","seq":7,"attempt":1,"ts":1.5,"type":"cancelled","reason":"",'
    data += place % number + b"}"
    found = parse_raw(JOB, data)
    assert found == decoded(data)
    assert found is not None
    assert found[1] is not None
    assert is_strict(found[1].data)
    assert (found[1].data == data) == (number == b"1e3")
