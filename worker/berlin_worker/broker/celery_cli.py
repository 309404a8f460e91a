"""Celery's command line: the variable that names its broker, and the option ``--terminate``.

``celery -A berlin_worker control revoke ID --terminate`` ends a task that runs. Celery 5.7 has no
such option; its own form is ``control terminate SIGTERM ID``.
"""

import functools
import sys
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource


def loaded_command(name: str) -> click.Command | None:
    """Return Celery's command ``name``, or ``None`` in a process without Celery's command line."""
    command: click.Command | None = getattr(sys.modules.get(f"celery.bin.{name}"), name, None)
    return command


def broker_variable(environ: Mapping[str, str]) -> str | None:
    """Return the variable from which Celery's command took its option ``--broker``, or None.

    The command has overwritten ``CELERY_BROKER_URL`` with it by now.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    if context.find_root().get_parameter_source("broker") is not ParameterSource.ENVIRONMENT:
        return None
    return "BROKER_URL" if environ.get("BROKER_URL") else "CELERY_BROKER"


def install() -> None:
    """Add ``--terminate``, if this process is Celery's command line."""
    control = loaded_command("control")
    if control is None:
        return
    run: Any = control.callback

    @functools.wraps(run)
    def run_with_option(*, command: str, terminate: bool, **options: Any) -> Any:
        if terminate:
            if command != "revoke":
                raise click.UsageError("--terminate belongs to revoke")
            command = "terminate"
            click.get_current_context().args.insert(0, "SIGTERM")
        return run(command=command, **options)

    help_text = "With revoke: end a task that runs, too."
    control.params.append(click.Option(["--terminate"], is_flag=True, help=help_text))
    control.callback = run_with_option
