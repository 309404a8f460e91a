"""The arguments of Celery's remote control commands: one table, checked before a command runs.

Celery passes the arguments of a message on as they are. A wrong argument may leave a state whose
effect appears later: a second queue, a pool without slots, a rate that never ends.
"""

import re
import signal
from collections.abc import Callable, Collection, Mapping
from math import isfinite
from typing import Any, Final, NamedTuple

from berlin_schemas import names

MOST_SLOTS: Final = 65535
"""The most messages that AMQP lets a consumer hold; for kombu a larger number is no limit."""
_LONGEST_TEXT: Final = 255
_LONGEST_LIMIT_S: Final = 366 * 86400
_RATE: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?(/[smh])?", re.ASCII)
_LARGEST_RATE: Final = 10**9
_SIGNALS: Final = frozenset(
    {each.name for each in signal.Signals}
    | {each.name.removeprefix("SIG") for each in signal.Signals}
)


class InvalidCommand(ValueError):
    """A command that this worker does not run; its one line names what to do instead."""


class Facts(NamedTuple):
    """The facts of a worker that a check needs."""

    tasks: Collection[str]
    slots: int
    prefetch_multiplier: int


class _Argument(NamedTuple):
    accepts: Callable[[Any], bool]
    """Receives a value other than None; None means that the argument was not given."""
    expected: str
    required: bool = False


class _Command(NamedTuple):
    arguments: Mapping[str, _Argument] = {}
    check: Callable[[Mapping[str, Any], Facts], str | None] | None = None
    """Returns what is wrong with arguments of the right types, or None."""


def checked(
    method: str, arguments: Mapping[str, Any], facts: Callable[[], Facts]
) -> dict[str, Any]:
    """Return the arguments with which Celery may run ``method``.

    A command that is not Celery's gets its arguments as they are. Raises :class:`InvalidCommand`.
    """
    method = _ALIASES.get(method, method)
    if instead := _REFUSED.get(method):
        raise InvalidCommand(f"{method} is not supported: {instead}")
    command = _COMMANDS.get(method)
    if command is None:
        return dict(arguments)
    given = {name: value for name, value in arguments.items() if value is not None}
    if arguments.keys() - command.arguments.keys():
        known = ", ".join(command.arguments) or "none"
        raise InvalidCommand(f"{method}: an argument does not exist; its arguments: {known}")
    for name, argument in command.arguments.items():
        if name not in given:
            if argument.required:
                raise InvalidCommand(f"{method}: {name} is missing: {argument.expected}")
        elif not argument.accepts(given[name]):
            raise InvalidCommand(f"{method}: {name} must be {argument.expected}")
    if command.check and (message := command.check(given, facts())):
        raise InvalidCommand(f"{method}: {message}")
    return dict(arguments)


def is_text(value: Any) -> bool:
    """Return whether this is printable text of bounded length: no line break can forge a log."""
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable()


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST_SLOTS


def _is_time(value: Any) -> bool:
    return type(value) in {int, float} and 0 < value <= _LONGEST_LIMIT_S


def _is_rate(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_RATE.fullmatch(value))
    return type(value) in {int, float} and isfinite(value) and 0 <= value <= _LARGEST_RATE


def _is_signal(value: Any) -> bool:
    if isinstance(value, str):
        return value.upper() in _SIGNALS
    return type(value) is int and value in set(signal.Signals)


def _is_one_text_or_more(value: Any) -> bool:
    return is_text(value) or (isinstance(value, list) and all(map(is_text, value)))


def _is_some(value: Any) -> bool:
    return value not in ("", [])


def _are_revoked(value: Any) -> bool:
    """Return whether these are IDs or, as older workers send them, IDs with times."""
    return isinstance(value, list | dict) and all(map(is_text, value))


def _queue_only(given: Mapping[str, Any], _: Facts) -> str | None:
    expected = {"queue": {names.QUEUE}, "exchange": {names.QUEUE, ""}, "exchange_type": {"direct"}}
    expected["routing_key"] = {names.QUEUE}
    if all(given[name] in expected[name] for name in given):
        return None
    return (
        f"this worker consumes {names.QUEUE} alone, to which jobs are sent and requeued: "
        f"name {names.QUEUE}, and nothing else"
    )


def _known_task(given: Mapping[str, Any], facts: Facts) -> str | None:
    if given["task_name"] in facts.tasks:
        return None
    return f"no such task: the task of the jobs is {names.TASK}"


def _room_to_grow(given: Mapping[str, Any], facts: Facts) -> str | None:
    most = MOST_SLOTS // max(1, facts.prefetch_multiplier)
    if facts.slots + given.get("n", 1) <= most:
        return None
    return f"{facts.slots} slots exist, and a worker has at most {most}: start another worker"


def _slots_left(given: Mapping[str, Any], facts: Facts) -> str | None:
    n = given.get("n", 1)
    if n < facts.slots:
        return None
    return (
        f"cannot take {n} from {facts.slots} slots, one must stay: to take no more jobs use "
        f"`control cancel_consumer {names.QUEUE}`"
    )


_BOOLEAN: Final = _Argument(_is_boolean, "true or false")
_TEXT: Final = _Argument(is_text, f"printable text of at most {_LONGEST_TEXT} characters")
_NEEDED: Final = _TEXT._replace(required=True)
_IDS: Final = _Argument(
    lambda value: _is_one_text_or_more(value) and _is_some(value),
    "a task ID, or a list of task IDs",
    required=True,
)
_SLOTS: Final = _Argument(_is_count, f"a whole number of slots from 1 to {MOST_SLOTS}")
_LIMIT: Final = _Argument(_is_time, f"a number of seconds above 0, at most {_LONGEST_LIMIT_S}")
_SIGNAL: Final = _Argument(_is_signal, "the name of a signal, for example SIGTERM")
_QUEUE: Final = _Command(
    {"queue": _NEEDED, "exchange": _TEXT, "exchange_type": _TEXT, "routing_key": _TEXT},
    _queue_only,
)

_COMMANDS: Final[Mapping[str, _Command]] = {
    **dict.fromkeys(
        (
            "active_queues",
            "clock",
            "disable_events",
            "enable_events",
            "heartbeat",
            "memsample",
            "ping",
            "report",
            "reserved",
            "revoked",
            "scheduled",
            "stats",
        ),
        _Command(),
    ),
    "active": _Command({"safe": _BOOLEAN}),
    "conf": _Command({"with_defaults": _BOOLEAN}),
    "memdump": _Command({"samples": _Argument(_is_count, "a whole number above 0")}),
    "registered": _Command(
        {
            "taskinfoitems": _Argument(_is_one_text_or_more, "a list of attributes"),
            "builtins": _BOOLEAN,
        }
    ),
    "query_task": _Command({"ids": _IDS}),
    "hello": _Command(
        {"from_node": _NEEDED, "revoked": _Argument(_are_revoked, "a list of task IDs")}
    ),
    "revoke": _Command({"task_id": _IDS, "terminate": _BOOLEAN, "signal": _SIGNAL}),
    "terminate": _Command({"signal": _SIGNAL._replace(required=True), "task_id": _IDS}),
    "rate_limit": _Command(
        {
            "task_name": _NEEDED,
            "rate_limit": _Argument(_is_rate, "a rate such as 5/s, 5/m or 5/h; 0 for none"),
        },
        _known_task,
    ),
    "time_limit": _Command({"task_name": _NEEDED, "soft": _LIMIT, "hard": _LIMIT}, _known_task),
    "pool_grow": _Command({"n": _SLOTS}, _room_to_grow),
    "pool_shrink": _Command({"n": _SLOTS}, _slots_left),
    "add_consumer": _QUEUE,
    "cancel_consumer": _QUEUE._replace(arguments={"queue": _NEEDED}),
    "shutdown": _Command({"msg": _TEXT}),
}

_REFUSED: Final[Mapping[str, str]] = {
    "autoscale": "an idle slot costs nothing: use `control pool_grow N` or `pool_shrink N`",
    "pool_restart": "send SIGHUP to the worker: it restarts and loses no stream",
    "election": "workers of this app elect nobody: start a service of your own",
    "objgraph": "it halts every stream of the worker: profile a worker that you started for it",
    "revoke_by_stamped_headers": "jobs have no stamps: use `control revoke ID`",
}
"""Name of a command, and what to do instead."""

_ALIASES: Final[Mapping[str, str]] = {
    "dump_conf": "conf",
    "dump_schedule": "scheduled",
    "dump_reserved": "reserved",
    "dump_active": "active",
    "dump_revoked": "revoked",
    "dump_tasks": "registered",
}
