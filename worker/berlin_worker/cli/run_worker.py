"""`berlin worker`: Celery's own command, after a look at what it needs."""

import os
import resource
import sys
from typing import Final

from berlin_worker.cli.errors import Problem
from berlin_worker.cli.output import say
from berlin_worker.cli.reach import broker_problem, load_settings, redis_problem
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings

MOST_FILES: Final = 65536


def run(concurrency: int | None, celery_args: tuple[str, ...]) -> None:
    """Become Celery, if all that it needs is there; raises as the checks do."""
    settings = load_settings()
    check_login(settings)
    if told := redis_problem(settings.redis_url) or broker_problem(settings):
        raise Problem(told, advice="start it, or correct REDIS_URL or CELERY_BROKER_URL")
    for url in settings.shards if settings.sharded else ():
        if told := redis_problem(url):
            say(f"berlin: {told}; its jobs wait until it does", fg="yellow")
    raise_file_limit()
    command = celery_command(concurrency, celery_args)
    os.execv(command[0], command)  # noqa: S606  # becomes Celery: signals and exit code are its own


def check_login(settings: Settings) -> None:
    """Raise ``SettingsError`` where the worker would not start for want of a login."""
    if settings.served_providers and "berlin" not in settings.served_providers:
        return
    password = settings.berlin_password
    if not settings.berlin_account or password is None or not password.get_secret_value():
        raise SettingsError(
            "set BERLIN_ACCOUNT and BERLIN_PASSWORD: berlin logs in with them; to serve other "
            "providers only, set WORKER_PROVIDERS, for example to echo"
        )


def raise_file_limit(most: int = MOST_FILES) -> None:
    """Allow this process ``most`` open files, or as many as the system lets it.

    A stream needs a socket, and where 1,024 files are the default some 900 streams are the end.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def celery_command(concurrency: int | None, celery_args: tuple[str, ...]) -> list[str]:
    """Celery's command line; its log level is info where none is given."""
    command = [sys.executable, "-m", "celery", "-A", "berlin_worker", "worker"]
    if concurrency is not None:
        command.append(f"--concurrency={concurrency}")
    if not any(arg == "-l" or arg.startswith(("--loglevel", "-l")) for arg in celery_args):
        command.append("--loglevel=info")
    return [*command, *celery_args]
