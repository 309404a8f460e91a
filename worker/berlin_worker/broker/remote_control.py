"""Check the messages of Celery's remote control and events: any client may publish any bytes.

Celery restarts its consumer for a command that it cannot parse, and misses other commands
meanwhile; an invalid event may corrupt state that fails later. This module drops such a message,
and logs one line. The checks are pure.
"""

from collections.abc import Callable
from math import isfinite
from typing import Any, Final

from celery.utils.log import get_logger
from kombu.pidbox import Node
from redis.exceptions import ResponseError

from berlin_worker.broker.command_arguments import Facts, InvalidCommand, checked
from berlin_worker.broker.guard import is_lost_connection

logger = get_logger(__name__)

_LATEST_CLOCK: Final = 2**53
"""Logical clocks count messages. No worker counts this far, and workers would pass the value on."""
_FIELDS: Final = ("method", "arguments", "reply_to", "ticket")


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
            check_event(event)
            event.update(with_clock(event))
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
    if not all(isinstance(body.get(name) or "", str) for name in ("pattern", "matcher", "ticket")):
        raise InvalidBroadcast("pattern, matcher, ticket: strings are needed")
    reply_to = body.get("reply_to")
    if reply_to and not (
        isinstance(reply_to, dict)
        and reply_to.get("exchange") == reply_exchange
        and isinstance(reply_to.get("routing_key"), str)
    ):
        raise InvalidBroadcast("reply_to: no address of remote control")
    names = (*_FIELDS, "destination", "pattern", "matcher")
    return {name: body[name] for name in names if name in body}


def check_event(event: Any) -> None:
    """Raise :class:`InvalidBroadcast` unless this is an event of a worker."""
    if not isinstance(event, dict):
        raise InvalidBroadcast("no object")
    if not isinstance(event.get("type"), str) or not isinstance(event.get("hostname"), str):
        raise InvalidBroadcast("type, hostname: strings are needed")
    if not _is_number(event.get("timestamp")):
        raise InvalidBroadcast("timestamp: a number is needed")
    odd = [
        name
        for name in ("freq", "pid", "active", "processed", "utcoffset", "local_received")
        if event.get(name) is not None and not _is_number(event[name])
    ]
    if odd:
        raise InvalidBroadcast(f"{odd[0]}: a number is needed")


def with_clock(fields: Any) -> dict[str, Any]:
    """Return the fields; an invalid logical clock, if they have one, becomes 0."""
    if not isinstance(fields, dict):
        return {}
    clock = fields.get("clock")
    if clock is None or (type(clock) is int and 0 <= clock < _LATEST_CLOCK):
        return fields
    return fields | {"clock": 0}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, InvalidBroadcast) else type(error).__name__


def _reason(error: Exception) -> str:
    """Return the error for the sender of a command: one line, without any part of a setting."""
    if isinstance(error, InvalidCommand):
        return str(error)
    return f"the command failed ({type(error).__name__}): look at its arguments, and at the log"
