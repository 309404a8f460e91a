"""Garbage for every place that an ACL user may write, as Hypothesis strategies.

An item is a command for Redis. ``BERLIN_FUZZ_PLACES`` names the kinds of places, separated by
commas; by default all of them are used.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from typing import Any, Final

import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from berlin_schemas import names

Command = tuple[Any, ...]
"""A Redis command with its arguments."""

JOBS: Final = ["fuzz-1", "fuzz-2", "fuzz-3"]
LIMITS: Final = [names.limit_key("berlin", "gpt-3.5-turbo"), names.limit_key("echo", "echo")]
_STATE_FIELDS: Final = [
    *("status", "job", "attempt", "seq", "chunks"),
    *("failed_attempts", "cleared", "cancel", "owner", "trace"),
    *("created_ms", "started_ms", "queued_ms", "co_submitted", "lease_ms", "progress"),
    *("first_lease_ms", "lost_after_ms", "requeuing"),
    *("tenant", "metadata", "fingerprint", "revoked"),
]

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just(2**80)
)
jsons = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
job_ids = st.sampled_from(JOBS) | st.sampled_from(["", "../x", "a b", "x" * 129, "é"])
numbers = st.sampled_from(
    ["x", "", "-1", "1.5", "1e400", "-1e400", "nan", "inf", "0x10", "007", "9" * 40, "1e13", "2"]
)
texts = st.one_of(
    numbers,
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    jsons.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [b"[" * 2000, b'{"a":' * 2000, b"9" * 5000, b"x" * 70_000, b"queued", b"running", b"{}"]
    ),
)
objects = st.fixed_dictionaries(
    {},
    optional={
        "messages": jsons | st.just([{"role": "user", "content": "fuzz"}]),
        "job_id": job_ids,
        "deadline_s": scalars,
        "proxy": scalars,
        "provider": scalars | st.just("echo"),
        "model": scalars,
        "fallbacks": jsons | st.just([{"provider": "echo", "model": "echo"}]),
    },
).map(lambda job: json.dumps(job).encode())
keys = st.one_of(
    st.sampled_from(JOBS).map(names.state_key),
    st.sampled_from(JOBS).map(names.log_key),
    st.sampled_from(
        [
            *(
                *map(names.due_key, JOBS),
                names.DUE_TURN,
                "worker:due",
                names.JOBS,
                names.DEAD_LETTERS,
                names.FLEET,
            ),
            *(names.alive_key("fuzz"), f"{names.DEAD_LETTER_DEDUP}fuzz"),
            *("limit:fuzz", "worker:fuzz", *LIMITS),
        ]
    ),
)


def values(key: str) -> st.SearchStrategy[Command]:
    """Return commands that leave a value of any type under ``key``."""
    return st.one_of(
        texts.map(lambda text: ("SET", key, text)),
        st.tuples(texts, texts).map(lambda pair: ("HSET", key, *pair)),
        texts.map(lambda text: ("LPUSH", key, text)),
        texts.map(lambda text: ("SADD", key, text)),
        st.tuples(st.sampled_from(["-inf", "+inf", "0", "-1", "1e300", "5"]), texts).map(
            lambda pair: ("ZADD", key, *pair)
        ),
        st.tuples(st.sampled_from(["*", "7-0", f"{2**64 - 1}-{2**64 - 1}"]), texts).map(
            lambda pair: ("XADD", key, pair[0], "event", pair[1])
        ),
        st.just(("PERSIST", key)),
        st.just(("EXPIRE", key, 1)),
    )


def _any_value() -> st.SearchStrategy[list[Command]]:
    """Return commands for a value of any type; a former value is removed first, or not."""
    return st.tuples(st.booleans(), keys.flatmap(values)).map(
        lambda drawn: [*([("DEL", drawn[1][1])] if drawn[0] else []), drawn[1]]
    )


def _record() -> st.SearchStrategy[list[Command]]:
    """Return commands for a record that is due at once: some fields are right, some wrong."""

    def commands(drawn: tuple[str, bytes, bytes, str, dict[str, Any]]) -> list[Command]:
        job_id, status, job, score, fields = drawn
        fields = {"status": status, "job": job, **fields}
        pairs = [part for pair in fields.items() for part in pair]
        key = names.state_key(job_id)
        return [("DEL", key), ("HSET", key, *pairs), ("ZADD", names.due_key(job_id), score, job_id)]

    return st.tuples(
        st.sampled_from(JOBS),
        st.sampled_from([b"queued", b"running"]) | texts,
        objects | texts,
        st.sampled_from(["1", "-inf", "+inf", "1e300", "0"]),
        st.dictionaries(st.sampled_from(_STATE_FIELDS[2:]), texts, max_size=4),
    ).map(commands)


def _control() -> st.SearchStrategy[list[Command]]:
    asked = st.dictionaries(st.sampled_from(["cancel", "reason", "fleet"]), scalars | job_ids)
    data = texts | asked.map(lambda message: json.dumps(message).encode())
    return data.map(lambda each: [("PUBLISH", names.CONTROL_CHANNEL, each)])


def _channel() -> st.SearchStrategy[list[Command]]:
    return st.tuples(st.sampled_from(JOBS), texts).map(
        lambda each: [("PUBLISH", names.channel(each[0]), each[1])]
    )


def _token() -> st.SearchStrategy[list[Command]]:
    """Return commands at a token, its lock and its refusals.

    ``{token}`` stands for the key of the worker's token: see :func:`placed`.
    """
    beside = st.sampled_from(["{token}", "token:{{token}}:lock", "token:{{token}}:refusals"])
    return beside.flatmap(values).map(lambda command: [("DEL", command[1]), command])


def _envelope() -> st.SearchStrategy[bytes]:
    headers = st.dictionaries(
        st.sampled_from(["id", "task", "lang", "eta", "expires", "timelimit", "stamps"]),
        scalars | job_ids | st.just(names.TASK),
    )
    properties = st.dictionaries(
        st.sampled_from(["delivery_tag", "delivery_info", "body_encoding", "priority"]), jsons
    )
    parts = st.fixed_dictionaries(
        {}, optional={"body": jsons, "headers": headers | jsons, "properties": properties | jsons}
    )
    return parts.map(lambda message: json.dumps(message).encode())


def _messages() -> st.SearchStrategy[list[Command]]:
    queue = st.sampled_from(["prompts", "prompts\x06\x163", "prompts\x06\x169"])
    return st.tuples(st.sampled_from(["LPUSH", "RPUSH"]), queue, _envelope() | texts).map(
        lambda each: [each]
    )


def _held() -> st.SearchStrategy[list[Command]]:
    held = texts | st.tuples(jsons, scalars, scalars).map(lambda each: json.dumps(each).encode())
    return st.tuples(st.text("abc", min_size=1, max_size=2), held).map(
        lambda each: [
            ("HSET", "unacked:prompts", *each),
            ("ZADD", "unacked_index:prompts", "1", each[0]),
        ]
    )


def _pidbox() -> st.SearchStrategy[list[Command]]:
    """Return broadcasts of remote control, without ``shutdown``: that rightly ends a worker."""
    method = st.sampled_from(["revoke", "terminate", "ping", "rate_limit", "time_limit", "x"])
    body = st.fixed_dictionaries(
        {}, optional={"method": method, "arguments": jsons, "destination": jsons, "ticket": jsons}
    )
    wrapped = body.map(
        lambda each: json.dumps(
            {
                "body": json.dumps(each),
                "content-type": "application/json",
                "content-encoding": "utf-8",
                "headers": {},
                "properties": {
                    "delivery_tag": "t",
                    "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
                },
            }
        ).encode()
    )
    return (wrapped | _envelope() | texts).map(
        lambda each: [("PUBLISH", "/{db}.celery.pidbox", each)]
    )


def _events() -> st.SearchStrategy[list[Command]]:
    """Return events of Celery, which workers read that look for each other."""
    kinds = st.sampled_from(["worker.heartbeat", "worker.online", "task.multi"])
    return st.tuples(kinds, _envelope() | texts).map(
        lambda each: [("PUBLISH", f"/{{db}}.celeryev/{each[0]}", each[1])]
    )


def _kombu() -> st.SearchStrategy[list[Command]]:
    """Return values of any type under kombu's own keys, and under those of the queue."""
    key = st.sampled_from(
        [
            *("prompts", "prompts\x06\x163", "unacked:prompts", "unacked_index:prompts"),
            *("unacked_mutex:prompts", "_kombu.binding.prompts", "_kombu.binding.celeryev"),
            *("_kombu.binding.celery.pidbox", "_kombu.binding.reply.celery.pidbox"),
        ]
    )
    return key.flatmap(values).map(lambda command: [("DEL", command[1]), command])


PLACES: Final[dict[str, Callable[[], st.SearchStrategy[list[Command]]]]] = {
    "value": _any_value,
    "record": _record,
    "control": _control,
    "channel": _channel,
    "token": _token,
    "messages": _messages,
    "held": _held,
    "pidbox": _pidbox,
    "events": _events,
    "kombu": _kombu,
}
"""Makes the strategy for each kind of place."""


def chosen() -> list[str]:
    """Return the kinds of places of this run."""
    named = os.environ.get("BERLIN_FUZZ_PLACES", "")
    return [each for each in named.split(",") if each] or list(PLACES)


def items(places: list[str]) -> st.SearchStrategy[list[Command]]:
    """Return a strategy of items: each is the commands that write it."""
    return st.one_of(*(PLACES[name]() for name in places))


def placed(command: Command, *, token: str, database: int) -> Command:
    """Return ``command`` with the names that depend on the running worker."""
    key = command[1].replace("{token}", token).replace("{db}", str(database))
    return (command[0], key, *command[2:])


def draw(count: int, places: list[str]) -> list[list[Command]]:
    """Return ``count`` items.

    Draw them before threads run: Hypothesis fails if another one uses ``random`` meanwhile.
    """
    drawn: list[list[Command]] = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(items(places))
    def draw_one(commands: list[Command]) -> None:
        drawn.append(commands)

    draw_one()
    assert len(drawn) == count
    return drawn


def write(
    raw: redis.Redis,
    drawn: Iterable[list[Command]],
    *,
    token: str = "token:fuzz",
    after_each: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the items; calls ``after_each`` with the number of those that are written."""
    for written, commands in enumerate(drawn, 1):
        for command in commands:
            # Redis itself refuses some: a key has another type, or an ID is not the newest.
            with contextlib.suppress(ResponseError):
                raw.execute_command(*placed(command, token=token, database=0))
        after_each(written)
