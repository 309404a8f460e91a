"""Events of later versions: unknown types are skipped, unknown versions are errors."""

import json

import pytest

from berlin_schemas import Event, encode
from berlin_worker.client.replay import JobSnapshot, Need, Replay
from berlin_worker.errors import UnsupportedVersion
from tests.support.replay_logs import JOB, base, entry, later, life, reader_at

pytestmark = pytest.mark.unit


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
    """Return ``event`` as another version of the contract may have it."""
    return json.dumps({**event.model_dump(mode="json"), "v": version}).encode()


@pytest.mark.parametrize("version", [2, 0, "1", None])
@pytest.mark.parametrize("kind", [*range(3), "unknown"])
def test_event_of_another_version_is_an_error_after_what_comes_before_it(version, kind):
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


def test_message_of_another_version_is_looked_up_in_the_log():
    replay = reader_at(3)
    for data in (of_version(2, life(8)[3]), json.dumps({"v": 2, **base(4), "type": "t"}).encode()):
        assert replay.messages([data]) == []
        assert (replay.need, replay.cursor) == (Need.PAGE, 3)
        replay.page([])
        replay.snapshot(JobSnapshot("running", 3, entry(life(8)[2])), may_wait=False)
