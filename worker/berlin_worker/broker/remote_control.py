"""Check the messages of Celery's remote control and events: any client may publish any bytes.

Celery restarts its consumer for a command that it cannot parse, and misses other commands
meanwhile; an invalid event may corrupt state that fails later. This module drops such a message,
and logs one line. The checks are pure.
"""

import fnmatch
import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final

from celery.utils.log import get_logger
from kombu.pidbox import Node
from redis.exceptions import ResponseError

from berlin_worker.broker.command_arguments import Facts, InvalidCommand, checked, is_text
from berlin_worker.broker.guard import is_lost_connection

logger = get_logger(__name__)

_LATEST_CLOCK: Final = 2**53
"""Logical clocks count messages. No worker counts this far, and workers would pass the value on."""
_FIELDS: Final = ("method", "arguments", "reply_to", "ticket")
_MATCHER: Final = "glob"
_EVENTS: Final = frozenset({"worker-online", "worker-heartbeat", "worker-offline"})
"""The events that Celery's gossip uses. Those of tasks would fill its state without a limit."""
_LATEST_TIME: Final = 253_402_214_400
"""The last day of the year 9999, s: Celery shows times as dates."""
_LONGEST_FREQ_S: Final = 3600
"""A worker counts as alive for twice the time between its heartbeats."""
_MOST_LOADS: Final = 3


class InvalidBroadcast(ValueError):
    """An invalid command or event; the text holds no part of it."""


class ControlNode(Node):
    """kombu's node for remote control, with checks of each command."""

    mailbox: Any
    handlers: dict[str, Callable[..., Any]]
    state: Any

    def handle_message(self, body: Any, message: Any = None) -> Any:
        """Run a command, and reply if it asks for that."""
        try:
            command = check_command(body, reply_exchange=self.mailbox.reply_exchange.name)
            if message is not None:
                message.headers = with_clock(message.headers)
            if is_for_another(command, self.hostname or ""):
                return None
            command |= {"pattern": None, "matcher": None}
            return super().handle_message(command, message)
        except Exception as error:  # not SystemExit, by which a command ends the worker
            # A ResponseError is a refusal of the reply, and no lost connection.
            if is_lost_connection(error) and not isinstance(error, ResponseError):
                raise
            logger.warning("a command of remote control was dropped: %s", _text(error))
            return None

    def handle(self, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run a command with valid arguments, and return its reply or, like kombu, an error.

        A command that ends the worker raises ``SystemExit``.
        """
        try:
            if method not in self.handlers:
                raise InvalidCommand("no such command: `celery control --list` shows all")  # noqa: TRY301  # one form of reply for every error
            return super().handle(method, checked(method, arguments or {}, self._facts))
        except Exception as error:  # noqa: BLE001  # Celery's commands raise anything
            message = _reason(error)
            logger.warning("a command of remote control was refused: %s", message)
            return {"error": message}

    def _facts(self) -> Facts:
        consumer = self.state.consumer
        return Facts(
            tasks=self.state.app.tasks,
            slots=consumer.pool.num_processes,
            prefetch_multiplier=consumer.prefetch_multiplier,
        )


def guarded_events(handle: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``handle(prepare, message)`` of Celery's gossip, for valid events only."""

    def handle_event(prepare: Callable[..., Any], message: Any) -> Any:
        try:
            message.headers = with_clock(message.headers)
            event = message.payload
            valid = checked_event(event)
            event.clear()
            event.update(valid)
            return handle(prepare, message)
        except Exception as error:
            if is_lost_connection(error):
                raise
            logger.warning("an event was dropped: %s", _text(error))
            return None

    return handle_event


def check_command(body: Any, *, reply_exchange: str) -> dict[str, Any]:
    """Return those fields of a command that kombu uses; raise :class:`InvalidBroadcast`.

    Replies may go to ``reply_exchange`` only: by another exchange a worker would write to any key.
    """
    if not isinstance(body, dict) or not isinstance(body.get("method"), str):
        raise InvalidBroadcast("no object with a method")
    if not isinstance(body.get("arguments") or {}, dict):
        raise InvalidBroadcast("arguments: an object is needed")
    destination = body.get("destination") or []
    if not isinstance(destination, list) or not all(isinstance(each, str) for each in destination):
        raise InvalidBroadcast("destination: a list of names is needed")
    if not all(is_text(body.get(name) or "") for name in ("pattern", "ticket")):
        raise InvalidBroadcast("pattern, ticket: short, printable strings are needed")
    # A regular expression may run for hours, and the worker halts meanwhile.
    if (body.get("matcher") or _MATCHER) != _MATCHER:
        raise InvalidBroadcast(f"matcher: use {_MATCHER}")
    reply_to = body.get("reply_to")
    if reply_to and not (
        isinstance(reply_to, dict)
        and reply_to.get("exchange") == reply_exchange
        and is_text(reply_to.get("routing_key"))
    ):
        raise InvalidBroadcast("reply_to: no address of remote control")
    names = (*_FIELDS, "destination", "pattern", "matcher")
    return {name: body[name] for name in names if name in body}


def is_for_another(command: Mapping[str, Any], hostname: str) -> bool:
    """Return whether the pattern of a valid command does not match the name of this worker.

    As with kombu, a pattern counts only without a destination and with a matcher.
    """
    pattern = command.get("pattern")
    if command.get("destination") or not (pattern and command.get("matcher")):
        return False
    # fnmatch.fnmatch, which kombu uses, keeps up to 32,768 patterns in memory; re keeps 512.
    return re.match(fnmatch.translate(pattern), hostname) is None


def checked_event(event: Any) -> dict[str, Any]:
    """Return the fields of a worker's event that Celery knows; raise :class:`InvalidBroadcast`.

    Celery makes an attribute of each field, so an unknown one could replace its own state.
    """
    if not isinstance(event, dict):
        raise InvalidBroadcast("no object")
    if not isinstance(event.get("type"), str) or event["type"] not in _EVENTS:
        raise InvalidBroadcast("type: an event of a worker is needed")
    for name in ("hostname", "timestamp"):
        if not _EVENT_FIELDS[name](event.get(name)):
            raise InvalidBroadcast(f"{name}: a valid value is needed")
    known = {name: event[name] for name in _EVENT_FIELDS if event.get(name) is not None}
    for name, value in known.items():
        if not _EVENT_FIELDS[name](value):
            raise InvalidBroadcast(f"{name}: a valid value is needed")
    clock = {"clock": event["clock"]} if event.get("clock") is not None else {}
    return with_clock({"type": event["type"], **known, **clock})


def with_clock(fields: Any) -> dict[str, Any]:
    """Return the fields; an invalid logical clock, if they have one, becomes 0."""
    if not isinstance(fields, dict):
        return {}
    clock = fields.get("clock")
    if clock is None or (type(clock) is int and 0 <= clock < _LATEST_CLOCK):
        return fields
    return fields | {"clock": 0}


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in {int, float} and low <= value <= high


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LATEST_CLOCK


def _are_loads(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MOST_LOADS
        and all(type(each) in {int, float} and isfinite(each) for each in value)
    )


_EVENT_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "hostname": lambda value: bool(value) and is_text(value),
    "timestamp": _between(0, _LATEST_TIME),
    "freq": _between(0, _LONGEST_FREQ_S),
    "utcoffset": _between(-48, 48),
    "pid": _is_count,
    "active": _is_count,
    "processed": _is_count,
    "loadavg": _are_loads,
    "sw_ident": is_text,
    "sw_ver": is_text,
    "sw_sys": is_text,
}


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, InvalidBroadcast) else type(error).__name__


def _reason(error: Exception) -> str:
    """Return the error for the sender of a command: one line, without any part of a setting."""
    if isinstance(error, InvalidCommand):
        return str(error)
    return f"the command failed ({type(error).__name__}): look at its arguments, and at the log"
