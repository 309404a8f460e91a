"""Make Celery's log, its prints and its banner the worker's."""

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.apps import worker as celery_worker
from celery.platforms import SecurityWarning

from berlin_schemas import names
from berlin_worker.errors import BerlinWorkerError

if TYPE_CHECKING:
    from celery import Celery

    from berlin_worker.settings import Settings


def _not_on_prompt_jobs(record: logging.LogRecord) -> bool:
    """Filter Celery's lines on prompt jobs: the worker logs one of its own when a job ends.

    "received", "succeeded" and the like remain at level DEBUG. A failed job is no failure of the
    task; the traceback of any other exception stays.
    """
    about = getattr(record, "data", None)
    if not isinstance(about, dict) or about.get("name") != names.TASK:
        return True
    if record.exc_info and isinstance(record.exc_info[1], BerlinWorkerError):
        return False
    if record.levelno != logging.INFO:
        return True
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


def install(app: "Celery", settings: "Settings") -> None:
    """Make ``app`` log by ``settings`` when Celery sets up its log."""
    json = False

    def before_privileges(**_: Any) -> None:
        # Celery takes a user whose group has no name, as in a container, for root.
        if os.getuid() and os.geteuid():
            warnings.filterwarnings("ignore", category=SecurityWarning)

    def set_up(*, loglevel: int, logfile: str | None, colorize: bool | None, **_: Any) -> None:
        from berlin_worker.telemetry import logs  # noqa: PLC0415  # importing the app must not load the log

        nonlocal json
        style = logs.set_up(settings, level=loglevel, logfile=logfile, colors=colorize)
        if app.conf.worker_redirect_stdouts:
            app.log.redirect_stdouts(app.conf.worker_redirect_stdouts_level)
        if json := style == "json":
            # What Celery prints past the log, from its signal handlers, would be no JSON.
            celery_worker.safe_say = logs.say_json

    def before_banner(*, instance: Any, **_: Any) -> None:
        instance.quiet = instance.quiet or json

    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).addFilter(_not_on_prompt_jobs)
    signals.celeryd_init.connect(before_privileges, weak=False)
    signals.setup_logging.connect(set_up, weak=False)
    signals.celeryd_after_setup.connect(before_banner, weak=False)
