"""The pure core of a reader against a model of the server, in any order of moves."""

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berlin_schemas import Cancelled, Chunk, Event, encode
from berlin_worker.client.entries import Entry
from berlin_worker.client.replay import PAGE_SIZE, JobSnapshot, Need, Replay
from tests.support.replay_logs import JOB, base, entry, life, of_database
from tests.support.selection import examples

pytestmark = pytest.mark.unit

FOREIGN = [
    *(of_database(event, 7) for event in life(40)),
    of_database(Cancelled(**base(3), reason="theirs"), 7),
    of_database(Chunk(**base(10**6), content="far"), 7),
    json.dumps({"v": 1, **base(3), "type": "thought", "db": 7}).encode(),
]


@pytest.mark.parametrize("database", [0, 1])
@given(st.lists(st.sampled_from(FOREIGN) | st.integers(3, 8), max_size=30))
def test_events_of_another_database_are_ignored(database, order):
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
        """Make the reader's next move, as :class:`berlin_worker.client.stream.Stream` does."""
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


@settings(max_examples=examples(400), deadline=None)
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
