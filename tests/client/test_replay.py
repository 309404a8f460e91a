"""The pure core of a reader: each event once, in order, none missing, and an end."""

import contextlib
import json

import pytest

from berlin_schemas import Cancelled, Chunk, Reset, Started, encode
from berlin_worker.client.raw_events import RawEvent, parse_raw
from berlin_worker.client.replay import PAGE_SIZE, JobSnapshot, Need, Replay
from berlin_worker.errors import CursorExpired, UnsupportedVersion
from tests.support.replay_logs import JOB, base, entry, later, life, reader_at

pytestmark = pytest.mark.unit

GARBAGE = [
    b"",
    b"\xff",
    b"null",
    b"[" * 5000,
    b"{}",
    encode(Chunk(**{**base(3), "job_id": "another"}, content="x")),
    json.dumps({"v": 2, **base(3), "type": "chunk", "content": "x"}).encode(),
    json.dumps({"v": 1, **base(3), "type": "thought", "db": "7"}).encode(),
    json.dumps({"v": 1, **base(3), "type": "chunk", "content": "x", "db": -1}).encode(),
]


@pytest.mark.parametrize("data", GARBAGE)
def test_garbage_before_the_next_event_sends_the_reader_to_the_log(data):
    replay = reader_at(2)
    assert replay.messages([data, encode(life(5)[2])]) == []
    assert replay.need is Need.PAGE
    assert replay.cursor == 2


def test_event_without_a_database_sends_a_reader_of_another_to_the_log():
    replay = Replay(JOB, database=1)
    replay.page([entry(life(5)[0])])
    assert replay.messages([encode(life(5)[1])]) == []
    assert replay.need is Need.PAGE
    assert [event.seq for event in replay.page([entry(life(5)[1])])] == [2]


def test_bytes_of_events_are_kept_if_they_are_wanted():
    replay = Replay(JOB)
    raw = replay.page([entry(life(5)[0]), (b"2-0", {b"event": later(2)})], parse_raw)
    raw += replay.messages([encode(life(5)[2]), later(4)], parse_raw)
    assert raw == [
        RawEvent(1, "started", encode(life(5)[0])),
        RawEvent(3, "chunk", encode(life(5)[2])),
    ]


def test_message_before_its_turn_sends_the_reader_to_the_log():
    replay = reader_at(3)
    events = life(8)
    assert replay.messages([encode(events[5])]) == []
    assert replay.need is Need.PAGE
    assert [e.seq for e in replay.page([entry(e) for e in events[3:6]])] == [4, 5, 6]
    assert replay.need is Need.LISTEN


def test_events_read_from_the_log_are_skipped_on_the_channel():
    replay = reader_at(3)
    events = life(8)
    assert [e.seq for e in replay.messages([encode(e) for e in events[1:5]])] == [4, 5]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1]",
        b"\xff\xfe",
        b"{" * 100_000,
        b'{"type":"chunk"}',
        encode(Chunk(job_id="another", seq=4, attempt=1, ts=0, content="x")),
        json.dumps({**base(4), "v": 1, "type": "chunk", "content": ""}).encode(),
        json.dumps({**base(4), "v": 1, "type": "thought", "seq": True}).encode(),
    ],
)
def test_message_that_is_no_event_of_the_job_sends_the_reader_to_the_log(data):
    replay = reader_at(3)
    assert replay.messages([data]) == []
    assert (replay.need, replay.cursor) == (Need.PAGE, 3)


def test_possibly_missed_events_are_read_from_the_log():
    replay = reader_at(3)
    replay.missed()
    assert replay.need is Need.PAGE


@pytest.mark.parametrize("status", ["running", "queued", "completed"])
def test_log_shorter_than_the_cursor_is_an_error(status):
    replay = reader_at(3)
    replay.messages([encode(event) for event in life(8)[3:6]])
    replay.missed()
    assert replay.page([]) == []
    last = entry(life(1)[2] if status == "completed" else life(8)[3])
    with pytest.raises(CursorExpired, match=r"lost events .* to 6"):
        replay.snapshot(JobSnapshot(status, 4, last), may_wait=False)


def test_callers_cursor_beyond_the_end_waits_for_later_events():
    replay = Replay(JOB, after=9)
    replay.page([])
    replay.snapshot(JobSnapshot("running", 3, entry(life(8)[2])), may_wait=False)
    assert replay.need is Need.LISTEN


def test_forged_sequence_jump_costs_one_page_read():
    replay = reader_at(3)
    replay.messages([encode(Chunk(**base(10**9), content="x"))])
    assert replay.page([]) == []
    replay.snapshot(JobSnapshot("running", 3, entry(life(8)[2])), may_wait=False)
    assert (replay.need, replay.cursor) == (Need.LISTEN, 3)


def test_finished_job_without_a_readable_terminal_event_is_an_error():
    replay = reader_at(3)
    unknown = (b"4-0", {b"event": later(4)})
    replay.page([unknown])
    replay.idle()
    with pytest.raises(UnsupportedVersion, match="cannot be read"):
        replay.snapshot(JobSnapshot("completed", 4, unknown), may_wait=False)


def test_garbage_entry_is_skipped():
    replay = reader_at(3)
    broken = [(b"4-0", {b"event": b"{"}), (b"5-0", {}), entry(life(8)[5])]
    assert [event.seq for event in replay.page(broken)] == [6]


def test_full_page_is_followed_by_the_next():
    events = life(PAGE_SIZE + 3)
    replay = Replay(JOB)
    replay.page([entry(event) for event in events[:PAGE_SIZE]])
    assert replay.need is Need.PAGE
    assert len(replay.page([entry(event) for event in events[PAGE_SIZE:]])) == 5
    assert replay.need is Need.NOTHING


def test_terminal_event_ends_the_stream_whatever_follows():
    replay = Replay(JOB)
    end = Cancelled(**base(2), reason="requested")
    got = replay.page([entry(Started(**base(1))), entry(end), entry(Reset(**base(3), reason="?"))])
    assert [event.seq for event in got] == [1, 2]
    replay.missed()
    replay.idle()
    assert replay.need is Need.NOTHING
    assert replay.messages([encode(Chunk(**base(3), content="x"))]) == []


def test_truncated_log_is_an_error_and_not_a_gap():
    with pytest.raises(CursorExpired, match="events 1 to 4"):
        Replay(JOB).page([entry(event) for event in life(8)[4:]])


@pytest.mark.parametrize(
    ("after", "seen", "may_wait", "need"),
    [
        pytest.param(0, JobSnapshot("queued", 0, None), False, Need.LISTEN, id="queued"),
        pytest.param(0, JobSnapshot("running", 0, None), False, Need.LISTEN, id="claimed just now"),
        pytest.param(0, JobSnapshot(None, 0, None), True, Need.LISTEN, id="no trace yet"),
        pytest.param(5, JobSnapshot("completed", 5, None), False, Need.NOTHING, id="over and seen"),
        pytest.param(9, JobSnapshot("failed", 5, None), False, Need.NOTHING, id="beyond the end"),
        pytest.param(
            10,
            JobSnapshot(None, 0, entry(life(8)[9])),
            False,
            Need.NOTHING,
            id="log outlives record",
        ),
        pytest.param(
            12,
            JobSnapshot("running", 10, entry(life(9)[9])),
            False,
            Need.LISTEN,
            id="from the future",
        ),
        pytest.param(
            2, JobSnapshot("running", 3, entry(life(8)[2])), False, Need.PAGE, id="there is more"
        ),
    ],
)
def test_empty_page_is_explained_by_the_record_and_the_end_of_the_log(after, seen, may_wait, need):
    replay = Replay(JOB, after)
    replay.page([])
    assert replay.need is Need.SNAPSHOT
    replay.snapshot(seen, may_wait=may_wait)
    assert replay.need is need


@pytest.mark.parametrize(
    ("after", "seen", "may_wait"),
    [
        pytest.param(0, JobSnapshot(None, 0, None), False, id="waited for long enough"),
        pytest.param(0, JobSnapshot("completed", 5, None), True, id="over, and the log is gone"),
        pytest.param(3, JobSnapshot("completed", 5, None), True, id="over, and the rest is gone"),
        pytest.param(0, JobSnapshot("running", 4, None), True, id="the log was evicted"),
        pytest.param(3, JobSnapshot(None, 0, None), True, id="there was a log once"),
    ],
)
def test_missing_log_is_an_error(after, seen, may_wait):
    replay = Replay(JOB, after)
    replay.page([])
    with pytest.raises(CursorExpired):
        replay.snapshot(seen, may_wait=may_wait)


def test_log_deleted_during_the_replay_is_an_immediate_error():
    replay = reader_at(3)
    replay.idle()
    with pytest.raises(CursorExpired):
        replay.snapshot(JobSnapshot(None, 0, None), may_wait=True)


def test_record_deleted_during_the_wait_is_an_immediate_error():
    replay = Replay(JOB)
    replay.page([])
    replay.snapshot(JobSnapshot("queued", 0, None), may_wait=True)
    replay.idle()
    with pytest.raises(CursorExpired):
        replay.snapshot(JobSnapshot(None, 0, None), may_wait=True)


def test_cursor_is_not_negative():
    with pytest.raises(ValueError, match="after"):
        Replay(JOB, -1)


def test_lost_page_is_requested_in_parts():
    replay = Replay(JOB)
    sizes = []
    for _ in range(4):
        sizes.append(replay.page_size)
        replay.page_lost()
    assert sizes == [PAGE_SIZE, 62, 7, 1]
    assert replay.page_size == 1


def test_full_small_page_is_not_the_last_one():
    replay = Replay(JOB)
    replay.page_lost()
    replay.page([entry(event) for event in life(PAGE_SIZE)[: replay.page_size]])
    assert replay.need is Need.PAGE


def test_pages_have_full_size_again_after_the_end_of_the_log():
    replay = Replay(JOB)
    replay.page_lost()
    replay.page([entry(event) for event in life(3)[:2]])
    assert replay.need is Need.LISTEN
    assert replay.page_size == PAGE_SIZE


def regrown(before: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return a log that went back to ``before`` and has grown again by another attempt."""
    again = [Reset(**(base(before + 1) | {"attempt": 2}), reason="lost")]
    again += [Chunk(**(base(n) | {"attempt": 2}), content="x") for n in range(before + 2, 20)]
    return [entry(event) for event in (*life(before + 1)[:before], *again)]


@pytest.mark.parametrize("before", range(1, 8))
@pytest.mark.parametrize("published", range(4))
def test_log_that_went_back_and_grew_again_is_an_error_before_any_event_of_it(before, published):
    events = life(20)
    replay = Replay(JOB)
    replay.page([entry(event) for event in events[:4]])
    replay.messages([encode(event) for event in events[4 : 4 + published]])
    log = regrown(before)
    taken = []
    with pytest.raises(CursorExpired) if before < 4 + published else contextlib.nullcontext():
        replay.missed()
        while replay.need is Need.PAGE:
            after, most = replay.next_page
            taken += replay.page(log[after : after + most])
    assert [event.seq for event in taken] == (
        [] if before < 4 + published else list(range(5 + published, 20))
    )


def test_log_that_has_exactly_grown_to_the_cursor_again_is_an_error():
    replay = reader_at(5)
    replay.missed()
    replay.page([])  # it was shorter, and is not any more
    with pytest.raises(CursorExpired, match="another event 5"):
        replay.snapshot(JobSnapshot("running", 5, regrown(2)[4]), may_wait=True)
