"""`berlin worker`: Celery's own command, after a look at what it needs."""

import os
import sys
from collections.abc import Sequence
from itertools import zip_longest

from berlin_worker.cli.errors import USAGE, Problem
from berlin_worker.cli.output import say
from berlin_worker.cli.preflight import broker_problem, load_settings, redis_problem
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings


def run(concurrency: int | None, celery_args: tuple[str, ...]) -> None:
    """Become Celery, if all that it needs is there; raises as the checks do."""
    if (pool := pool_of(celery_args)) is not None:
        from berlin_worker.broker.worker_options import pool_refusal  # noqa: PLC0415  # loads Celery

        # Before Celery is there: it imports gevent for `-P gevent` before it looks at this app.
        if told := pool_refusal(pool):
            raise Problem(told, USAGE)
    settings = load_settings()
    check_providers(settings)
    if told := redis_problem(settings.redis_url) or broker_problem(settings):
        raise Problem(told, advice="start it, or correct REDIS_URL or CELERY_BROKER_URL")
    for url in settings.shards if settings.sharded else ():
        if told := redis_problem(url):
            say(f"berlin: {told}; its jobs wait until it does", fg="yellow")
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
    """Raise ``SettingsError`` if the worker would not start for what a provider lacks."""
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
    """Celery's command line; its log level is info where none is given."""
    command = [sys.executable, "-m", "celery", "-A", "berlin_worker", "worker"]
    if concurrency is not None:
        command.append(f"--concurrency={concurrency}")
    if not any(arg == "-l" or arg.startswith(("--loglevel", "-l")) for arg in celery_args):
        command.append("--loglevel=info")
    return [*command, *celery_args]
