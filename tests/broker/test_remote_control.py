"""Commands and events of Celery's workers: invalid ones are dropped before Celery sees them."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.events.receiver import EventReceiver
from celery.events.state import State
from hypothesis import given
from hypothesis import strategies as st
from kombu.pidbox import Mailbox

from berlin_worker.broker.remote_control import (
    ControlNode,
    InvalidBroadcast,
    check_command,
    checked_event,
    guarded_events,
    is_for_another,
    with_clock,
)

pytestmark = pytest.mark.unit

REPLIES = "reply.celery.pidbox"
COMMAND = {"method": "ping", "arguments": {}, "destination": None}
EVENT = {"type": "worker-heartbeat", "hostname": "w@h", "timestamp": 1.5, "clock": 3, "pid": 1}


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        7,
        "x",
        {},
        {**COMMAND, "method": None},
        {**COMMAND, "method": ["ping"]},
        {**COMMAND, "arguments": [1]},
        {**COMMAND, "destination": "a name"},
        {**COMMAND, "destination": [7]},
        {**COMMAND, "pattern": 7, "matcher": "glob"},
        {**COMMAND, "pattern": r"((\w|@)+)+!", "matcher": "pcre"},
        {**COMMAND, "pattern": "w*", "matcher": ["glob"]},
        {**COMMAND, "pattern": "*" * 256, "matcher": "glob"},
        {**COMMAND, "ticket": "a\nb"},
        {**COMMAND, "reply_to": {"exchange": REPLIES, "routing_key": "a\nb"}},
        {**COMMAND, "ticket": [1]},
        {**COMMAND, "reply_to": "somebody"},
        {**COMMAND, "reply_to": {"exchange": REPLIES}},
        {**COMMAND, "reply_to": {"exchange": "", "routing_key": "prompts"}},
    ],
)
def test_invalid_command_is_refused(body):
    with pytest.raises(InvalidBroadcast):
        check_command(body, reply_exchange=REPLIES)


def test_command_keeps_the_fields_that_kombu_uses():
    reply_to = {"exchange": REPLIES, "routing_key": "an id"}
    sent = {**COMMAND, "reply_to": reply_to, "ticket": "t", "pattern": None, "matcher": None}
    assert check_command({**sent, "self": 1}, reply_exchange=REPLIES) == sent
    known = {"method": "hello", "arguments": {"from_node": "x", "revoked": {"a": 1.5}}}
    assert check_command(known, reply_exchange=REPLIES) == known


@pytest.mark.parametrize(
    ("pattern", "hostname", "expected"),
    [
        ("w@*", "w@h", False),
        ("W@*", "w@h", True),
        ("[uvw]@?", "w@h", False),
        ("*a" * 127, "a" * 255, False),
        ("*a" * 126 + "*!", "a" * 255, True),
        ("*?" * 126 + "!", "a" * 255, True),
        ("*[a-z]" * 41 + "!", "a" * 255, True),
    ],
)
def test_pattern_of_any_shape_is_matched_at_once(pattern, hostname, expected):
    command = check_command(
        {**COMMAND, "pattern": pattern, "matcher": "glob"}, reply_exchange=REPLIES
    )
    assert is_for_another(command, hostname) is expected
    assert not is_for_another({**command, "destination": [hostname]}, hostname)


def test_command_with_a_pattern_runs_on_the_workers_that_it_matches():
    node = ControlNode(
        "w@h", {}, handlers={"ping": lambda state: "pong"}, mailbox=Mailbox("celery", type="fanout")
    )
    replies = [
        node.handle_message({**COMMAND, "pattern": pattern, "matcher": matcher})
        for pattern, matcher in [("w@*", "glob"), ("x@*", "glob"), ("w@h", "pcre"), ("x", None)]
    ]
    assert replies == ["pong", None, None, "pong"]


@pytest.mark.parametrize("clock", [-1, 2**53, 10**400, 1.5, float("inf"), "1", [1], True])
def test_clock_that_would_spread_is_not_adopted(clock):
    assert with_clock({"clock": clock, "ticket": "t"}) == {"clock": 0, "ticket": "t"}


def test_clock_that_is_a_count_is_adopted():
    assert with_clock({"clock": 7}) == {"clock": 7}
    assert with_clock({}) == with_clock(None) == {}


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        {},
        {**EVENT, "type": 7},
        {**EVENT, "hostname": None},
        {**EVENT, "timestamp": "now"},
        {**EVENT, "timestamp": float("inf")},
        {**EVENT, "freq": "often"},
        {**EVENT, "pid": []},
        {**EVENT, "pid": -1},
        {**EVENT, "type": "worker-elect"},
        {**EVENT, "type": "task-received", "uuid": "a", "name": "b"},
        {**EVENT, "type": "worker-heartbeat\n"},
        {**EVENT, "hostname": ""},
        {**EVENT, "hostname": "w@h\n[2026-01-01] forged"},
        {**EVENT, "hostname": "w" * 256},
        {**EVENT, "timestamp": -1},
        {**EVENT, "timestamp": 1e12},
        {**EVENT, "freq": 1e9},
        {**EVENT, "freq": 10**400},
        {**EVENT, "freq": True},
        {**EVENT, "loadavg": {"a": 1}},
        {**EVENT, "loadavg": [1, 2, 3, 4]},
        {**EVENT, "sw_ver": ["5"]},
    ],
)
def test_invalid_event_is_refused(event):
    with pytest.raises(InvalidBroadcast):
        checked_event(event)


def test_event_keeps_the_fields_that_celery_sends():
    sent = EVENT | {
        "type": "worker-online", "freq": 2.0, "utcoffset": -5, "active": 3, "processed": 9,
        "loadavg": [6.4, 4, 0.1], "sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux",
    }  # fmt: skip
    assert checked_event(sent) == sent
    unknown = {"heartbeats": {"a": 1}, "event": 1, "local_received": "x", "freq": None, "new": 1}
    assert checked_event(EVENT | unknown) == EVENT
    assert "clock" not in checked_event(EVENT | {"clock": None})


def test_events_of_workers_are_handled_and_others_are_dropped():
    handled: list[Any] = []
    handle = guarded_events(lambda prepare, message: handled.append(message.payload))
    for payload in (EVENT, None, {**EVENT, "freq": "often"}, {**EVENT, "clock": "x"}):
        handle(None, SimpleNamespace(headers={}, payload=payload))
    assert [event["clock"] for event in handled] == [3, 0]


@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["worker-online", "worker-heartbeat", "task-received"])},
            optional={
                "hostname": st.sampled_from(["a@b", "a\nb"]) | st.text(),
                "timestamp": st.floats() | st.integers(),
                "freq": st.none() | st.floats() | st.integers(),
                "heartbeats": st.sampled_from(["abc", {"a": 1}, None, [None]]),
                **dict.fromkeys(["event", "alive", "uuid", "name"], st.none() | st.text()),
            },
        ),
        max_size=5,
    )
)
def test_no_event_breaks_the_state_of_gossip(sent):
    state = State()
    receiver = EventReceiver(None, app=Celery(set_as_current=False))

    def update(prepare: Any, message: Any) -> None:
        state.event(receiver.event_from_message(message.payload, localize=False)[1])

    handle = guarded_events(update)
    for payload in sent:
        handle(None, SimpleNamespace(headers={}, payload=payload))
    # What gossip asks for every 5 s, and logs.
    assert all(isinstance(worker.alive, bool) for worker in state.workers.values())
    assert all(name.isprintable() for name in state.workers)
    assert not state.tasks
    assert not state.tasks_by_type


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
commands = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(["ping", "hello", "none such"]) | anything,
        **dict.fromkeys(
            ["arguments", "destination", "pattern", "matcher", "reply_to", "ticket"], anything
        ),
    },
)


@given(anything | commands, anything | st.fixed_dictionaries({"clock": anything}))
def test_no_command_of_any_shape_raises(body, headers):
    mailbox = Mailbox("celery", type="fanout")
    node = ControlNode("w@h", {}, handlers={"ping": lambda state: "pong"}, mailbox=mailbox)
    node.handle_message(body, SimpleNamespace(headers=headers))
    assert json.dumps(mailbox.clock.value).isdigit()
    assert node.handle_message(COMMAND, SimpleNamespace(headers={"clock": 1})) == "pong"


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("ping", {"a": 1}, "ping: an argument does not exist"),
        ("none such", {}, "no such command"),
        ("autoscale", {}, "autoscale is not supported"),
        ("breaks", {}, "the command failed (ZeroDivisionError)"),
    ],
)
def test_command_that_cannot_run_is_answered_in_one_line(caplog, method, arguments, message):
    handlers: dict[str, Any] = {"ping": lambda state: "pong", "breaks": lambda state: 1 / 0}
    node = ControlNode(
        "w@h",
        {},
        handlers=handlers | {"autoscale": lambda state: "no"},
        mailbox=Mailbox("celery", type="fanout"),
    )
    sent = {"method": method, "arguments": arguments, "destination": None}
    reply = node.handle_message(sent, SimpleNamespace(headers={}))
    assert reply["error"].startswith(message)
    [record] = caplog.records
    assert reply["error"] in record.message
    assert record.exc_info is None


def test_command_that_ends_the_worker_still_ends_it():
    def shutdown(state: Any) -> None:
        raise SystemExit(0)

    mailbox = Mailbox("celery", type="fanout")
    node = ControlNode("w@h", {}, handlers={"shutdown": shutdown}, mailbox=mailbox)
    with pytest.raises(SystemExit):
        node.handle_message({"method": "shutdown"}, SimpleNamespace(headers={}))
