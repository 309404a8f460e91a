"""`berlin worker`: check settings and servers, then become Celery's own command."""

import os
import sys
from collections.abc import Sequence
from itertools import zip_longest

from berlin_worker.cli.errors import USAGE, Problem
from berlin_worker.cli.preflight import broker_problem, load_settings, redis_problem
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings


def run(concurrency: int | None, celery_args: tuple[str, ...]) -> None:
    """Become Celery if all checks pass. Raises ``Problem`` or ``SettingsError`` otherwise."""
    if (pool := pool_of(celery_args)) is not None:
        from berlin_worker.broker.worker_options import pool_refusal  # noqa: PLC0415  # loads Celery

        # Before Celery runs: for `-P gevent` it imports gevent before it loads this app.
        if message := pool_refusal(pool):
            raise Problem(message, USAGE)
    settings = load_settings(needs_broker=True)
    check_providers(settings)
    if message := redis_problem(settings.redis_url) or broker_problem(settings):
        raise Problem(message, hint="start it, or correct REDIS_URL or CELERY_BROKER_URL")
    command = celery_command(concurrency, celery_args)
    os.execv(command[0], command)  # noqa: S606  # becomes Celery: signals and exit code are its own


def pool_of(celery_args: Sequence[str]) -> str | None:
    """Return the value of Celery's option ``--pool``, or None if it is not given."""
    for argument, following in zip_longest(celery_args, celery_args[1:], fillvalue=""):
        if argument in {"-P", "--pool"}:
            return following
        if argument.startswith("-P"):
            return argument.removeprefix("-P")
        if argument.startswith("--pool="):
            return argument.removeprefix("--pool=")
    return None


def check_providers(settings: Settings) -> None:
    """Raise ``SettingsError`` if a provider lacks a setting that the worker needs to start."""
    from berlin_worker.providers.served import check_settings  # noqa: PLC0415  # imports providers

    try:
        check_settings(settings, os.environ)
    except SettingsError as error:
        message = str(error)
    else:
        return
    if not {"providers", "default_provider"} & settings.model_fields_set:
        message += (
            "; to serve other providers only, set WORKER_PROVIDERS or WORKER_DEFAULT_PROVIDER, "
            "for example to echo"
        )
    raise SettingsError(message)


def celery_command(concurrency: int | None, celery_args: tuple[str, ...]) -> list[str]:
    """Return Celery's command line, with log level info by default."""
    command = [sys.executable, "-m", "celery", "-A", "berlin_worker", "worker"]
    if concurrency is not None:
        command.append(f"--concurrency={concurrency}")
    if not any(arg == "-l" or arg.startswith(("--loglevel", "-l")) for arg in celery_args):
        command.append("--loglevel=info")
    return [*command, *celery_args]
