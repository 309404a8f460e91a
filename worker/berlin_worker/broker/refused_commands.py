"""Commands of Celery that cannot work here: each ends in one line that names the right command."""

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from celery import Celery

REFUSED: Final = {
    "result": "jobs have no result in Celery: `berlin status ID` and `berlin tail ID` show them",
    "migrate": "the record of a job does not move with its message: let the workers empty the old "
    "broker's queue, and let the producers send to the new one",
}
"""Name of a command, and what to do instead."""


def install(app: "Celery") -> None:
    """Refuse the commands, if this process is Celery's command line for ``app``."""
    module: Any = sys.modules.get("celery.bin.celery")
    if module is None:
        return
    for name, instead in REFUSED.items():
        command: click.Command = module.celery.commands[name]
        command.callback = _refusing(command.callback, app, instead)


def _refusing(run: Callable[..., Any] | None, app: "Celery", instead: str) -> Callable[..., Any]:
    assert run is not None, "each of Celery's commands runs something"

    @functools.wraps(run)
    def refused(*args: Any, **options: Any) -> Any:
        if click.get_current_context().obj.app is app:
            raise click.ClickException(instead)
        return run(*args, **options)

    return refused
