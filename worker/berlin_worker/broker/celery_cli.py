"""``celery -A berlin_worker control revoke ID --terminate``, which the contract names.

Celery 5.7 has no such option; its own form is ``control terminate SIGTERM ID``.
"""

import functools
import sys
from typing import Any

import click


def loaded_command(name: str) -> click.Command | None:
    """Return Celery's command ``name``, or ``None`` in a process without Celery's command line."""
    command: click.Command | None = getattr(sys.modules.get(f"celery.bin.{name}"), name, None)
    return command


def install() -> None:
    """Add the option, if this process is Celery's command line."""
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
