"""Celery's log, which becomes the worker's: its lines, what it prints, and its banner."""

import os
import warnings
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.apps import worker as celery_worker
from celery.platforms import SecurityWarning

if TYPE_CHECKING:
    from celery import Celery

    from berlin_worker.settings import Settings


def install(app: "Celery", settings: "Settings") -> None:
    """Let ``app`` log as ``settings`` say, when it comes to set up its log."""
    json = False

    def before_privileges(**_: Any) -> None:
        # Whoever's group has no name, as that of a container's user, is called root by Celery.
        if os.getuid() and os.geteuid():
            warnings.filterwarnings("ignore", category=SecurityWarning)

    def set_up(*, loglevel: int, logfile: str | None, colorize: bool | None, **_: Any) -> None:
        from berlin_worker.telemetry import logs  # noqa: PLC0415  # who imports the app need not load it

        nonlocal json
        style = logs.set_up(settings, level=loglevel, logfile=logfile, colors=colorize)
        if app.conf.worker_redirect_stdouts:
            app.log.redirect_stdouts(app.conf.worker_redirect_stdouts_level)
        if json := style == "json":
            # What Celery prints past the log, from its signal handlers, would be no JSON.
            celery_worker.safe_say = logs.say_json

    def before_banner(*, instance: Any, **_: Any) -> None:
        instance.quiet = instance.quiet or json

    signals.celeryd_init.connect(before_privileges, weak=False)
    signals.setup_logging.connect(set_up, weak=False)
    signals.celeryd_after_setup.connect(before_banner, weak=False)
