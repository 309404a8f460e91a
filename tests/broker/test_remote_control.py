"""Commands and events of Celery's workers: invalid ones are dropped before Celery sees them."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.pidbox import Mailbox

from berlin_worker.broker.remote_control import (
    ControlNode,
    InvalidBroadcast,
    check_command,
    check_event,
    guarded_events,
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
    ],
)
def test_invalid_event_is_refused(event):
    with pytest.raises(InvalidBroadcast):
        check_event(event)


def test_events_of_workers_are_handled_and_others_are_dropped():
    handled: list[Any] = []
    handle = guarded_events(lambda prepare, message: handled.append(message.payload))
    for payload in (EVENT, None, {**EVENT, "freq": "often"}, {**EVENT, "clock": "x"}):
        handle(None, SimpleNamespace(headers={}, payload=payload))
    assert [event["clock"] for event in handled] == [3, 0]


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
