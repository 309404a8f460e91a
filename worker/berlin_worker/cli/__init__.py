"""The `berlin` command.

Each command is a module that is imported when it is called, so that `berlin --help` does
not wait for Celery, redis-py and aiohttp.
"""

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import click

COMMANDS: Final = {
    "demo": (
        "berlin_worker.cli.demo",
        "Stream a prompt through a whole setup, nothing to install.",
    ),
    "submit": ("berlin_worker.cli.submit", "Send a prompt and stream the answer."),
    "tail": ("berlin_worker.cli.jobs", "Follow a job from any terminal."),
    "cancel": ("berlin_worker.cli.jobs", "Cancel a job."),
    "status": ("berlin_worker.cli.jobs", "Show how a job stands."),
    "batch": ("berlin_worker.cli.batch", "Run a file of prompts; resumes without paying twice."),
    "dead": ("berlin_worker.cli.dead", "List and replay what could not be run."),
    "worker": ("berlin_worker.cli.run_worker", "Start a worker."),
    "top": ("berlin_worker.cli.top", "Watch the fleet: workers, queue, errors, logins."),
    "doctor": ("berlin_worker.cli.doctor", "Check Redis, broker and login, and say what to do."),
}
"""Name of a command: its module, and the first sentence of its help."""


class Commands(click.Group):
    """The commands, imported one by one; their errors become one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """In the order in which they are learnt."""
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; no error leaves as a traceback, unless BERLIN_DEBUG is set."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("BERLIN_DEBUG"):
                raise
            from berlin_worker.cli.errors import problem  # noqa: PLC0415  # half a second that most runs save

            raise problem(error) from None


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        try:
            told = version("berlin-worker")
        except PackageNotFoundError:
            told = "(not installed)"
        click.echo(f"berlin {told}")
        ctx.exit()


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from the environment: REDIS_URL, CELERY_BROKER_URL, BERLIN_ACCOUNT, "
    "BERLIN_PASSWORD, ... BERLIN_DEBUG=1 shows tracebacks.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Prompts in, a token stream out: through a queue, and without a gap.

    New here? `berlin demo` needs nothing but this package.

    Exit codes: 0 completed, 1 failed, 2 wrong usage or settings, 130 interrupted.
    """
