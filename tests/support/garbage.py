"""Garbage for all that Celery's workers read, as strategies: messages, commands, events."""

import base64
import json
import uuid
from typing import Any

from hypothesis import strategies as st

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, "\udfff", "2000-01-01T00:00:00", "../x", "a" * 200])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


_FURTHER = ("group", "chord", "chain", "parent_id", "ignore_result", "argsrepr", "shadow", "meth")
_FURTHER += ("replaced_task_nesting", "is_eager", "called_directly", "hostname", "delivery_info")
"""Headers that Celery copies into its request; producers send them as None."""


def task(text: str = "Hi") -> dict[str, Any]:
    """Return a message for ``worker.generate``, as a producer sends it."""
    job_id = str(uuid.uuid4())
    job = {"messages": [{"role": "user", "content": text}], "provider": "echo"}
    return {
        "body": base64.b64encode(json.dumps([[job], {}, {}]).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py",
            "task": "worker.generate",
            "id": job_id,
            "root_id": job_id,
            "retries": 0,
            "eta": None,
            "expires": None,
            "timelimit": [None, None],
            "stamped_headers": None,
            "stamps": {},
            "origin": "a test",
            **dict.fromkeys(_FURTHER),
        },
        "properties": {
            "correlation_id": job_id,
            "reply_to": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "prompts"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def broadcast(body: Any, headers: Any = None, exchange: str = "celery.pidbox") -> dict[str, Any]:
    """Return a message of remote control or of an event, as kombu publishes it."""
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"clock": 1, "expires": 0} if headers is None else headers,
        "properties": {
            "delivery_mode": 1,
            "delivery_info": {"exchange": exchange, "routing_key": "worker.heartbeat"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def changed(message: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the message with another value at ``path`` (``headers.id``)."""
    inner = message
    *outer, last = path.split(".")
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return message


def paths(message: dict[str, Any]) -> list[str]:
    """Return the paths of all parts of a message: two levels, and some of the third."""
    return [
        f"{outer}{inner}"
        for outer, value in message.items()
        for inner in ["", *(f".{key}" for key in (value if isinstance(value, dict) else ()))]
    ] + ["properties.delivery_info.exchange", "properties.delivery_info.routing_key"]


_bodies = anything.map(lambda body: base64.b64encode(json.dumps(body).encode()).decode())
_odd_jobs = st.tuples(
    st.just([{"messages": [{"role": "user", "content": "Hi"}], "provider": "echo"}]) | anything,
    st.just({}) | anything,
    st.just({}) | anything,
)

messages = (
    st.builds(changed, st.builds(task), st.sampled_from(paths(task())), anything).map(json.dumps)
    | st.builds(changed, st.builds(task), st.just("body"), _bodies).map(json.dumps)
    | _odd_jobs.map(
        lambda body: json.dumps(
            changed(task(), "body", base64.b64encode(json.dumps(body).encode()).decode())
        )
    )
    | anything.map(json.dumps)
).map(str.encode) | st.binary(max_size=50)
"""What may be pushed on a queue: bytes."""

_commands = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(["ping", "revoke", "hello", "rate_limit", "none such"])
        | anything,
        "reply_to": st.fixed_dictionaries({"exchange": anything, "routing_key": anything})
        | anything,
        **dict.fromkeys(["arguments", "destination", "pattern", "matcher", "ticket"], anything),
    },
)
_events = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["worker-heartbeat", "worker-elect", "worker-elect-ack"])
        | anything,
        "hostname": st.just("w@h") | anything,
        "timestamp": st.just(1.5) | anything,
    },
    optional=dict.fromkeys(["clock", "freq", "pid", "id", "topic", "action", "cver"], anything),
)
broadcasts = (
    st.builds(broadcast, _commands | _events | anything).map(json.dumps)
    | st.builds(broadcast, _commands | _events, anything).map(json.dumps)
    | st.builds(
        changed, st.builds(broadcast, _commands), st.sampled_from(paths(broadcast({}))), anything
    ).map(json.dumps)
    | anything.map(json.dumps)
).map(str.encode) | st.binary(max_size=50)
"""What may be published on a channel of Celery's: bytes."""
