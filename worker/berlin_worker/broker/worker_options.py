"""Refuse the options of ``celery worker`` that make no sense for streams, each in one line.

They are refused before any message is received, wherever an option was set: on the command line,
by ``CELERY_WORKER_<OPTION>``, in the app's configuration or in ``app.Worker(...)``.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from celery import concurrency, signals

from berlin_schemas import names
from berlin_worker.broker.celery_cli import loaded_command
from berlin_worker.broker.command_arguments import MOST_SLOTS
from berlin_worker.broker.file_targets import file_refusal
from berlin_worker.broker.option_targets import target_refusal
from berlin_worker.pool import AsyncioPool

if TYPE_CHECKING:
    from celery import Celery

POOL: Final = f"{AsyncioPool.__module__.rpartition('.')[0]}:{AsyncioPool.__name__}"
USAGE: Final = 2
"""Exit code for a wrong command line."""
_LONGEST_NAME: Final = 200

_NO_CHILDREN: Final = "one process runs all streams and no child process exists"
_REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    "max_tasks_per_child": (
        "--max-tasks-per-child",
        f"{_NO_CHILDREN}: to begin afresh send SIGHUP, which loses no stream",
    ),
    "max_memory_per_child": (
        "--max-memory-per-child",
        f"{_NO_CHILDREN}: limit the memory of the service (MemoryMax=, the container's limit)",
    ),
    "autoscale": (
        "--autoscale",
        "an idle slot costs nothing: set the most streams in flight with --concurrency",
    ),
    "beat": ("--beat", "this app has no schedule: run `celery beat` of the app that has one"),
    "purge": (
        "--purge",
        "a worker that starts must not end the jobs of others: run `celery -A berlin_worker purge`",
    ),
}
"""Name of an option that is refused with any value: how it is written, and what to do instead."""


def pool_refusal(pool: str) -> str | None:
    """Return why a worker cannot run with the pool of this name or path, or None."""
    if pool in {"prefork", POOL, f"{AsyncioPool.__module__}:{AsyncioPool.__name__}"}:
        return None
    return (
        f"--pool {pool!r:.80} cannot stream: leave --pool out, and this worker runs in its own "
        "asyncio pool, --concurrency streams at once"
    )


def refusal(options: Mapping[str, Any]) -> str | None:
    """Return one line on the first option that cannot be obeyed, or None.

    ``options`` has the names and values of Celery's worker command, as far as they are known;
    a false value counts as not given.
    """
    for name, (written, instead) in _REFUSED.items():
        if options.get(name):
            return f"{written} is not supported: {instead}"
    if options.get("pool_start_method") not in (None, "fork"):
        return f"--pool-start-method is not supported: {_NO_CHILDREN}"
    return (
        _slots_refusal(options)
        or _time_refusal(options)
        or _hostname_refusal(options.get("hostname"))
    )


def _slots_refusal(options: Mapping[str, Any]) -> str | None:
    slots, multiplier = options.get("concurrency"), options.get("prefetch_multiplier")
    if slots == "auto":
        return "--concurrency auto counts CPUs: name the most streams in flight, for example 1000"
    if multiplier is not None and multiplier < 1:
        return (
            "--prefetch-multiplier must be 1 or more: with less the worker takes no message, or all"
        )
    most = MOST_SLOTS // (multiplier or 1)
    if slots is not None and not 1 <= slots <= most:
        return (
            f"--concurrency must be a number from 1 to {most}, the most streams in flight, "
            "for example 1000"
        )
    return None


def _time_refusal(options: Mapping[str, Any]) -> str | None:
    interval = options.get("heartbeat_interval")
    if interval is not None and interval < 1:
        return "--heartbeat-interval must be 1 s or more: to send none use --without-heartbeat"
    for name, written in (("time_limit", "--time-limit"), ("soft_time_limit", "--soft-time-limit")):
        limit = options.get(name)
        if limit is not None and not (isfinite(limit) and limit >= 0):
            return f"{written} must be a number of seconds, 0 for no limit"
    return None


def _hostname_refusal(hostname: str | None) -> str | None:
    """Return why this cannot be the name of a worker, or None: queue names and logs contain it."""
    if hostname is None:
        return None
    name, _, host = hostname.partition("@")
    word = hostname.isprintable() and " " not in hostname and len(hostname) <= _LONGEST_NAME
    if word and name and host:
        return None
    return "--hostname must be one word of the form NAME@HOST, for example w1@%h"


def queue_refusal(queues: Collection[str]) -> str | None:
    """Return why a worker cannot consume ``queues``, or None."""
    if set(queues) == {names.QUEUE}:
        return None
    named = ", ".join(sorted(queues)) or "no queue"
    return (
        f"--queues, --exclude-queues: this worker would consume {named:.80}, but jobs are sent "
        f"and requeued to {names.QUEUE} alone: leave both options out"
    )


def _files_refusal(options: Mapping[str, Any]) -> str | None:
    """Return one line on the first file of a worker that cannot be used, or None."""
    for option in ("pidfile", "statedb"):
        path = options.get(option)
        if path and (message := file_refusal(option, Path(str(path)))):
            return f"--{option}: {message}"
    return None


def install(app: "Celery") -> None:
    """Check the options of each worker of ``app`` before it starts."""

    def check(sender: Any, **_: Any) -> None:
        if sender.app is not app:
            return
        message = (
            _implementation_refusal(sender.pool_cls)
            or refusal({**sender.options, **vars(sender)})
            or queue_refusal(app.amqp.queues.consume_from)
            or _files_refusal(vars(sender))
        )
        if message:
            click.echo(f"Error: {message}", err=True)
            raise SystemExit(USAGE)

    signals.worker_init.connect(check, weak=False)
    command = loaded_command("worker")
    if command is not None:
        _check_command(command, app)


def _implementation_refusal(pool: Any) -> str | None:
    """Return why a worker cannot run with this pool (a name, a path or a class), or None."""
    implementation = concurrency.get_implementation(pool)
    if isinstance(implementation, type) and issubclass(implementation, AsyncioPool):
        return None
    name = getattr(implementation, "__module__", str(implementation))
    return pool_refusal(pool if isinstance(pool, str) else name)


class _PoolName(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """The value of ``--pool``: Celery's own default and the path of our pool mean our pool."""

    name = "pool"

    def __init__(self, app: "Celery", others: Any) -> None:
        self._app = app
        self._others = others

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the class of the pool; raises ``UsageError`` for one that cannot be used."""
        if ctx is None or ctx.obj.app is not self._app or not isinstance(value, str):
            return self._others.convert(value, param, ctx)
        configured = self._app.conf.worker_pool
        if message := pool_refusal(value) or _implementation_refusal(configured):
            raise _OneLine(message)
        return AsyncioPool


class _Hostname(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """The value of ``--hostname``; for an unknown % Celery's own type prints a traceback."""

    name = "hostname"

    def __init__(self, app: "Celery", celerys: Any) -> None:
        self._app = app
        self._celerys = celerys

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name with its % expanded; raises ``ClickException`` for an unknown one."""
        try:
            return self._celerys.convert(value, param, ctx)
        except ValueError:
            if ctx is None or ctx.obj.app is not self._app:
                raise
            raise _OneLine("--hostname has an unknown %: write %h, %n, %d or %%") from None


class _OneLine(click.ClickException):
    """An error of one line, without Celery's usage above it."""

    exit_code = USAGE


def _check_command(command: click.Command, app: "Celery") -> None:
    """Check the options in the command, too: ``--detach`` forks before a worker exists."""
    for param in command.params:
        if param.name == "pool":
            param.type = _PoolName(app, param.type)
        if param.name == "hostname":
            param.type = _Hostname(app, param.type)
        if param.name in {"concurrency", "prefetch_multiplier"}:
            param.callback = _positive(app, param.callback)
    run: Callable[..., Any] | None = command.callback
    assert run is not None, "Celery's command runs something"

    @functools.wraps(run)
    def checked_run(*args: Any, **options: Any) -> Any:
        if click.get_current_context().obj.app is app and (message := _command_refusal(options)):
            raise _OneLine(message)
        return run(*args, **options)

    command.callback = checked_run


def _command_refusal(options: Mapping[str, Any]) -> str | None:
    """Return why the command cannot run, detached or not, or None."""
    queues: Iterable[str] = options.get("queues") or [names.QUEUE]
    excluded: Iterable[str] = options.get("exclude_queues") or ()
    return refusal(options) or queue_refusal(set(queues) - set(excluded)) or target_refusal(options)


def _positive(app: "Celery", callback: Any) -> Callable[..., Any]:
    """Return a callback that refuses numbers below 1; to Celery 0 means that none is given."""

    def check(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if ctx.obj.app is app and re.fullmatch(r"\s*(-\d+|\+?0+)\s*", str(value)):
            raise _OneLine(refusal({param.name or "": 0}) or f"{param.name} must be 1 or more")
        return callback(ctx, param, value)

    return check
