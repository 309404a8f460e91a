"""The worker's log: JSON for machines, one object a line; sentences for people at a terminal.

Every module logs by the standard library, as Celery does. This module renders a record as a line,
with the job and the attempt that the code works for. No module logs a prompt; the secrets of the
settings and of the providers are hidden in every line.
"""

import contextlib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO, cast
from urllib.parse import parse_qsl, unquote

import structlog
from pydantic import SecretStr
from structlog.stdlib import ProcessorFormatter

from berlin_worker.config import redis_options
from berlin_worker.telemetry import job_end, known_secrets
from berlin_worker.telemetry.log_context import JOB

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

    from berlin_worker.settings import Settings

Style = Literal["json", "console"]

_URL: Final = re.compile(r"[^:/?#]+://(?:([^/?#]*)@)?[^?#]*(?:\?([^#]*))?")
_LIST: Final = re.compile(r"[;,]\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_STDERR: Final = 2


def style_of(log_format: str, *, terminal: bool) -> Style:
    """Return the style that ``WORKER_LOG_FORMAT`` asks for."""
    if log_format == "auto":
        return "console" if terminal else "json"
    return cast("Style", log_format)


def set_up(settings: "Settings", *, level: int, logfile: str | None, colors: bool | None) -> Style:
    """Make the root logger, and so every other, log in the style of the settings."""
    terminal = logfile is None and sys.__stderr__ is not None and sys.__stderr__.isatty()
    style = style_of(settings.log_format, terminal=terminal)
    handler: logging.Handler = (
        _Stream(sys.__stderr__)
        if logfile is None
        else _File(logfile, encoding="utf-8", errors="backslashreplace")
    )
    known_secrets.LOG.add(secrets_of(settings))
    colors = terminal and colors is not False
    handler.setFormatter(formatter(style, known_secrets.LOG.hide, colors=colors))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # For providers that log by structlog themselves.
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            _at_work,
            _timestamp,
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return style


def formatter(
    style: Style, hide: Callable[[str], str], *, colors: bool = False
) -> logging.Formatter:
    """Return a formatter for records of the standard library and of structlog.

    ``hide`` returns a text without its secrets.
    """
    hidden = _hidden(hide)
    if style == "json":
        render: list[Processor] = [
            structlog.processors.format_exc_info,
            hidden,
            _in_order,
            structlog.processors.JSONRenderer(ensure_ascii=False, allow_nan=False),
        ]
    else:
        # Not rich's tracebacks: they show the values of variables, prompts among them.
        console = structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
        render = [_sentence, _once, structlog.processors.format_exc_info, hidden, console]
    return ProcessorFormatter(
        foreign_pre_chain=[_from_record],
        processors=[
            ProcessorFormatter.remove_processors_meta,
            _whatever_the_fields(render, style, hide),
        ],
    )


def secrets_of(settings: "Settings") -> set[str]:
    """Return the secrets of the settings: secret fields, and passwords in URLs."""
    found: set[str] = set()
    for _, value in settings:
        if isinstance(value, SecretStr):
            secret = value.get_secret_value()
            found |= {secret, *secret.split(",")}  # several keys in one setting
        elif isinstance(value, str):
            found |= secrets_in(value)
    return known_secrets.long_enough(found)


def secrets_in(address: str) -> set[str]:
    """Return the passwords in a URL, or in a list of URLs with semicolons or commas between."""
    found: set[str] = set()
    for part in _LIST.split(address):
        # Not by urlsplit, which reads no list of hosts.
        if url := _URL.match(part):
            login, query = url.groups(default="")
            found.add(unquote(login.partition(":")[2]))
            options = parse_qsl(query)
            found |= {value for name, value in options if name in redis_options.SECRETS}
    return known_secrets.long_enough(found)


def say_json(message: str, *_: Any) -> None:
    """Write what Celery prints from signal handlers as a line of the log; replaces ``safe_say``."""
    line = {"timestamp": _now(), "level": "info", "logger": "celery", "event": message.strip()}
    # A signal handler may have interrupted the logger in the middle of a line.
    os.write(_STDERR, json.dumps(line).encode() + b"\n")


class _PastTheLog(logging.Handler):
    """A handler that reports, on the original stderr, a line that could not be logged.

    The standard library reports it on ``sys.stderr``, which Celery redirects to the log: one line
    whose reader has gone would become dozens.
    """

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the library's name
        with contextlib.suppress(OSError):  # stderr has no reader either
            if sys.__stderr__ is not None:
                place = f"{record.pathname}:{record.lineno}"
                print(f"A line could not be logged, of {place}", file=sys.__stderr__)
                traceback.print_exc(file=sys.__stderr__)


class _Stream(_PastTheLog, logging.StreamHandler[TextIO]):
    pass


class _File(_PastTheLog, WatchedFileHandler):
    pass


def _from_record(_: Any, __: str, event: "EventDict") -> "EventDict":
    record: logging.LogRecord = event["_record"]
    event["timestamp"] = _time(record.created)
    event["level"] = record.levelname.lower()
    event["logger"] = record.name
    ended = getattr(record, job_end.ATTRIBUTE, None)
    if isinstance(ended, dict):
        event.update(ended)
        return event
    about = getattr(record, "data", None)  # Celery's lines on a task have it
    job_id = getattr(record, "job_id", None) or (
        about.get("id") if isinstance(about, dict) else None
    )
    if job_id is None:
        return _at_work(_, __, event)
    event["job_id"] = job_id
    return event


def _at_work(_: Any, __: str, event: "EventDict") -> "EventDict":
    if (at_work := JOB.get()) is not None:
        event["job_id"], attempt = at_work
        if attempt:
            event["attempt"] = attempt
    return event


def _timestamp(_: Any, __: str, event: "EventDict") -> "EventDict":
    event["timestamp"] = _now()
    return event


def _in_order(_: Any, __: str, event: "EventDict") -> "EventDict":
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return {**first, **event}


def _sentence(_: Any, __: str, event: "EventDict") -> "EventDict":
    """Replace the fields of an ended job by a sentence, for people."""
    if event.get("event") != job_end.EVENT or "status" not in event:
        return event
    names = ("timestamp", "level", "logger", "job_id", "tenant", "model")
    short = {name: event[name] for name in names if event.get(name) is not None}
    return {**short, "event": job_end.sentence_of(event)}


def _once(_: Any, __: str, event: "EventDict") -> "EventDict":
    """Remove the field of a job ID that the text of the line holds already."""
    job_id = event.get("job_id")
    if isinstance(job_id, str) and job_id in str(event.get("event")):
        del event["job_id"]
    return event


def _whatever_the_fields(
    render: "list[Processor]", style: Style, hide: Callable[[str], str]
) -> "Processor":
    """Return one processor for all; if one raises, the line shows each field as Python does.

    Code of providers may log fields of any type, some of which structlog cannot render.
    """

    def process(logger: Any, name: str, event: "EventDict") -> Any:
        fields = dict(event)
        try:
            for each in render:
                event = each(logger, name, event)  # type: ignore[assignment]  # the last one returns text
        except Exception:  # noqa: BLE001  # a line is never lost
            shown = {str(key): hide(_shown(value)) for key, value in fields.items()}
            if style == "json":
                return json.dumps(_in_order(None, "", shown), ensure_ascii=False)
            return " ".join(f"{key}={value!r}" for key, value in shown.items())
        return event

    return process


def _shown(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001  # any type may have any repr
        return f"<{type(value).__name__}>"


def _hidden(hide: Callable[[str], str]) -> "Processor":
    def process(_: Any, __: str, event: "EventDict") -> "EventDict":
        for name, value in event.items():
            if isinstance(value, str):
                event[name] = hide(value)
        return event

    return process


def _now() -> str:
    return _time(datetime.now(UTC).timestamp())


def _time(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
