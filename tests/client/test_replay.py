"""The pure core of a reader: each event once, in order, none missing, and an end."""

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berlin_schemas import Cancelled, Chunk, Completed, Event, Reset, Started, Timings, encode
from berlin_worker.client.entries import Entry
from berlin_worker.client.replay import PAGE_SIZE, JobSnapshot, Need, Replay
from berlin_worker.errors import CursorExpired, UnsupportedVersion

pytestmark = pytest.mark.unit

JOB = "job-1"
ZERO = Timings(queue_ms=0, login_ms=0, first_chunk_ms=0, stream_ms=0, total_ms=0)


def base(seq: int) -> dict[str, object]:
    return {"job_id": JOB, "seq": seq, "attempt": 1, "ts": 0.0}


def life(chunks: int) -> list[Event]:
    """started, chunks, completed."""
    middle = [Chunk(**base(seq), content=f"<{seq}>") for seq in range(2, chunks + 2)]
    end = Completed(**base(chunks + 2), finish_reason="stop", timings=ZERO)
    return [Started(**base(1)), *middle, end]


def entry(event: Event) -> Entry:
    return (f"{event.seq}-0".encode(), {b"event": encode(event)})


def later(seq: int) -> bytes:
    """An event of a type that a later version may have."""
    return json.dumps({"v": 1, **base(seq), "type": "thought", "depth": 3}).encode()


def reader_at(cursor: int) -> Replay:
    """A reader that has read the log up to ``cursor`` and listens."""
    replay = Replay(JOB)
    replay.page([entry(event) for event in life(cursor + 5)[:cursor]])
    assert replay.need is Need.LISTEN
    return replay


def of_database(event: Event, database: int) -> bytes:
    return encode(event.model_copy(update={"db": database}))


FOREIGN = [
    *(of_database(event, 7) for event in life(40)),
    of_database(Cancelled(**base(3), reason="theirs"), 7),
    of_database(Chunk(**base(10**6), content="far"), 7),
    json.dumps({"v": 1, **base(3), "type": "thought", "db": 7}).encode(),
]
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


@pytest.mark.parametrize("database", [0, 1])
@given(st.lists(st.sampled_from(FOREIGN) | st.integers(3, 8), max_size=30))
def test_events_of_another_database_are_silence(database, order):
    own = {event.seq: event for event in life(6)}
    replay = Replay(JOB, database=database)
    replay.page([entry(own[1]), entry(own[2])])
    seen = []
    for each in order:
        data = of_database(own[each], database) if isinstance(each, int) else each
        events = replay.messages([data])
        assert not (events and isinstance(each, bytes))
        seen += events
        if replay.need is Need.PAGE:  # a jump in the reader's own events
            log = [of_database(own[n], database) for n in range(1, each + 1)]
            page = [(f"{n}-0".encode(), {b"event": data}) for n, data in enumerate(log, 1)]
            seen += replay.page(page[replay.confirmed :])
    assert [event.seq for event in seen] == list(range(3, 3 + len(seen)))
    assert [event.content for event in seen if event.type == "chunk"] == [
        own[event.seq].content for event in seen if event.type == "chunk"
    ]


@pytest.mark.parametrize("data", GARBAGE)
def test_what_is_no_event_of_the_job_sends_a_reader_to_the_log(data):
    replay = reader_at(2)
    assert replay.messages([data, encode(life(5)[2])]) == []
    assert replay.need is Need.PAGE
    assert replay.cursor == 2


def test_an_event_without_a_database_sends_a_reader_of_another_to_the_log():
    replay = Replay(JOB, database=1)
    replay.page([entry(life(5)[0])])
    assert replay.messages([encode(life(5)[1])]) == []
    assert replay.need is Need.PAGE
    assert [event.seq for event in replay.page([entry(life(5)[1])])] == [2]


def test_the_bytes_of_events_are_kept_if_they_are_wanted():
    replay = Replay(JOB)
    replay.raw = []
    replay.page([entry(life(5)[0]), (b"2-0", {b"event": later(2)})])
    replay.messages([encode(life(5)[2]), later(4)])
    assert replay.raw == [encode(life(5)[0]), encode(life(5)[2])]


# One reader against a model of the server: a log, a channel that may lose, repeat and
# delay messages, and a reader that makes its moves in between, in any order.


@dataclass
class Server:
    """The log and one subscription."""

    log: list[Event] = field(default_factory=list)
    inbox: list[bytes] = field(default_factory=list)
    subscribed: bool = False
    missed: bool = False

    def page(self, cursor: int) -> list[Entry]:
        return [entry(event) for event in self.log if event.seq > cursor][:PAGE_SIZE]

    def snapshot(self) -> JobSnapshot:
        if not self.log:
            return JobSnapshot("queued", 0, None)
        last = self.log[-1]
        return JobSnapshot(
            "completed" if last.type == "completed" else "running", last.seq, entry(last)
        )


@dataclass
class Run:
    server: Server
    replay: Replay
    delivered: list[int] = field(default_factory=list)

    def step(self, *, quiet: bool = False) -> None:
        """The reader's next move; what :class:`berlin_worker.client.stream.Stream` does."""
        events: list[Event] = []
        match self.replay.need:
            case Need.PAGE:
                events = self.replay.page(self.server.page(self.replay.confirmed))
            case Need.SNAPSHOT:
                self.replay.snapshot(self.server.snapshot(), may_wait=True)
            case Need.LISTEN if self.server.missed:
                self.server.missed = False
                self.replay.missed()
            case Need.LISTEN if self.server.inbox:
                batch, self.server.inbox = self.server.inbox, []
                events = self.replay.messages(batch)
            case Need.LISTEN if quiet:
                self.replay.idle()
        self.delivered.extend(event.seq for event in events)


publications = st.sampled_from(["heard", "lost", "twice", "late", "garbage"])
moves = st.one_of(
    st.tuples(st.just("publish"), publications),
    st.tuples(st.just("read"), st.just("")),
    st.tuples(st.just("reconnect"), st.just("")),
    st.tuples(st.just("quiet"), st.just("")),
    st.tuples(st.just("replayed"), st.just("")),
)


@settings(max_examples=400, deadline=None)
@given(
    chunks=st.integers(0, 12),
    before=st.integers(0, 14),
    after=st.integers(0, 14),
    script=st.lists(moves, max_size=60),
)
def test_every_interleaving_gives_each_event_once_in_order_up_to_the_terminal(
    chunks, before, after, script
):
    events = life(chunks)
    to_come = list(events)
    server = Server()
    late: list[bytes] = []
    for _ in range(min(before, len(events))):
        server.log.append(to_come.pop(0))
    # A cursor is something that was seen, so the log has it.
    after = min(after, len(server.log))
    run = Run(server, Replay(JOB, after))
    server.subscribed = True
    for move, how in script:
        if move == "publish" and to_come:
            event = to_come.pop(0)
            server.log.append(event)
            data = encode(event)
            server.inbox += {
                "heard": [data],
                "lost": [],
                "twice": [data, data],
                "late": [],
                "garbage": [b"\xff{", data],
            }[how]
            late += [data] if how == "late" else []
        elif move == "reconnect":
            server.inbox.clear()
            server.missed = True
        elif move == "replayed":
            server.inbox += late
            late.clear()
        else:
            run.step(quiet=move == "quiet")
    server.log += to_come
    for _ in range(4 * len(events) + 8):
        run.step(quiet=True)
    assert run.replay.need is Need.NOTHING
    assert run.delivered == [event.seq for event in events if event.seq > after]


def test_a_message_before_its_turn_sends_the_reader_to_the_log():
    replay = reader_at(3)
    events = life(8)
    assert replay.messages([encode(events[5])]) == []
    assert replay.need is Need.PAGE
    assert [e.seq for e in replay.page([entry(e) for e in events[3:6]])] == [4, 5, 6]
    assert replay.need is Need.LISTEN


def test_what_was_seen_in_the_log_is_skipped_on_the_channel():
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
def test_a_message_that_is_no_event_of_the_job_sends_the_reader_to_the_log(data):
    replay = reader_at(3)
    assert replay.messages([data]) == []
    assert (replay.need, replay.cursor) == (Need.PAGE, 3)


def test_what_may_have_been_missed_is_read_from_the_log():
    replay = reader_at(3)
    replay.missed()
    assert replay.need is Need.PAGE


@pytest.mark.parametrize("status", ["running", "queued", "completed"])
def test_a_log_that_has_gone_back_behind_what_was_read_is_an_error(status):
    replay = reader_at(3)
    replay.messages([encode(event) for event in life(8)[3:6]])
    replay.missed()
    assert replay.page([]) == []
    last = entry(life(1)[2] if status == "completed" else life(8)[3])
    with pytest.raises(CursorExpired, match=r"lost events .* to 6"):
        replay.snapshot(JobSnapshot(status, 4, last), may_wait=False)


def test_a_cursor_of_the_callers_own_beyond_the_end_waits_for_it():
    replay = Replay(JOB, after=9)
    replay.page([])
    replay.snapshot(JobSnapshot("running", 3, entry(life(8)[2])), may_wait=False)
    assert replay.need is Need.LISTEN


def test_a_forged_jump_costs_one_look_and_nothing_else():
    replay = reader_at(3)
    replay.messages([encode(Chunk(**base(10**9), content="x"))])
    assert replay.page([]) == []
    replay.snapshot(JobSnapshot("running", 3, entry(life(8)[2])), may_wait=False)
    assert (replay.need, replay.cursor) == (Need.LISTEN, 3)


def test_types_of_a_later_version_are_skipped_but_counted():
    replay = reader_at(3)
    events = life(8)
    got = replay.messages([later(4), encode(events[4])])
    assert [event.seq for event in got] == [5]
    in_log = [
        (b"4-0", {b"event": later(4)}),
        entry(events[4]),
        (b"6-0", {b"event": later(6)}),
        entry(events[6]),
    ]
    assert [event.seq for event in replay.page(in_log)] == [7]


def of_version(version: object, event: Event) -> bytes:
    """``event`` as another version of the contract may have it."""
    return json.dumps({**event.model_dump(mode="json"), "v": version}).encode()


@pytest.mark.parametrize("version", [2, 0, "1", None])
@pytest.mark.parametrize("kind", [*range(3), "unknown"])
def test_an_event_of_another_version_is_an_error_after_what_comes_before_it(version, kind):
    events = life(1)
    if kind == "unknown":
        data = json.dumps({"v": version, **base(2), "type": "thought"}).encode()
        at = 2
    else:
        data, at = of_version(version, events[kind]), kind + 1
    log = [*map(entry, events[: at - 1]), (f"{at}-0".encode(), {b"event": data})]
    replay = Replay(JOB)
    if at > 1:
        assert replay.page(log) == events[: at - 1]
    assert (replay.need, replay.cursor) == (Need.PAGE, at - 1)
    with pytest.raises(UnsupportedVersion, match="version"):
        replay.page(log[at - 1 :])


def test_a_message_of_another_version_is_looked_up_in_the_log():
    replay = reader_at(3)
    for data in (of_version(2, life(8)[3]), json.dumps({"v": 2, **base(4), "type": "t"}).encode()):
        assert replay.messages([data]) == []
        assert (replay.need, replay.cursor) == (Need.PAGE, 3)
        replay.page([])
        replay.snapshot(JobSnapshot("running", 3, entry(life(8)[2])), may_wait=False)


def test_a_job_that_is_over_without_a_terminal_event_that_can_be_read_is_an_error():
    replay = reader_at(3)
    unknown = (b"4-0", {b"event": later(4)})
    replay.page([unknown])
    replay.idle()
    with pytest.raises(UnsupportedVersion, match="cannot be read"):
        replay.snapshot(JobSnapshot("completed", 4, unknown), may_wait=False)


def test_an_entry_that_is_no_event_is_skipped_and_does_not_stop_the_reader():
    replay = reader_at(3)
    broken = [(b"4-0", {b"event": b"{"}), (b"5-0", {}), entry(life(8)[5])]
    assert [event.seq for event in replay.page(broken)] == [6]


def test_a_full_page_is_followed_by_the_next():
    events = life(PAGE_SIZE + 3)
    replay = Replay(JOB)
    replay.page([entry(event) for event in events[:PAGE_SIZE]])
    assert replay.need is Need.PAGE
    assert len(replay.page([entry(event) for event in events[PAGE_SIZE:]])) == 5
    assert replay.need is Need.NOTHING


def test_a_terminal_event_ends_it_whatever_follows():
    replay = Replay(JOB)
    end = Cancelled(**base(2), reason="requested")
    got = replay.page([entry(Started(**base(1))), entry(end), entry(Reset(**base(3), reason="?"))])
    assert [event.seq for event in got] == [1, 2]
    replay.missed()
    replay.idle()
    assert replay.need is Need.NOTHING
    assert replay.messages([encode(Chunk(**base(3), content="x"))]) == []


def test_a_log_that_was_cut_is_an_error_not_a_gap():
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
def test_an_empty_page_is_explained_by_the_record_and_the_end_of_the_log(
    after, seen, may_wait, need
):
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
def test_a_log_that_is_gone_is_an_explicit_error(after, seen, may_wait):
    replay = Replay(JOB, after)
    replay.page([])
    with pytest.raises(CursorExpired):
        replay.snapshot(seen, may_wait=may_wait)


def test_a_log_that_goes_while_it_is_read_is_an_error_at_once():
    replay = reader_at(3)
    replay.idle()
    with pytest.raises(CursorExpired):
        replay.snapshot(JobSnapshot(None, 0, None), may_wait=True)


def test_a_record_that_goes_while_it_is_waited_for_is_an_error_at_once():
    replay = Replay(JOB)
    replay.page([])
    replay.snapshot(JobSnapshot("queued", 0, None), may_wait=True)
    replay.idle()
    with pytest.raises(CursorExpired):
        replay.snapshot(JobSnapshot(None, 0, None), may_wait=True)


def test_a_cursor_is_not_negative():
    with pytest.raises(ValueError, match="after"):
        Replay(JOB, -1)


def test_a_page_that_is_lost_is_asked_for_in_parts():
    replay = Replay(JOB)
    sizes = []
    for _ in range(4):
        sizes.append(replay.page_size)
        replay.page_lost()
    assert sizes == [PAGE_SIZE, 62, 7, 1]
    assert replay.page_size == 1


def test_a_small_page_that_is_full_is_not_the_last_one():
    replay = Replay(JOB)
    replay.page_lost()
    replay.page([entry(event) for event in life(PAGE_SIZE)[: replay.page_size]])
    assert replay.need is Need.PAGE


def test_once_the_log_is_read_to_its_end_the_next_pages_are_whole_again():
    replay = Replay(JOB)
    replay.page_lost()
    replay.page([entry(event) for event in life(3)[:2]])
    assert replay.need is Need.LISTEN
    assert replay.page_size == PAGE_SIZE
