"""The `berlin` command.

The module of a command holds its options and its help. It imports the code that does the work only
when the command runs, so that `--help` and completion load nothing but click.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from berlin_worker.cli.groups import SuggestingGroup
from berlin_worker.cli.output import (
    discard_unwritable,
    fitting,
    use_nearest_characters,
    utf8_word,
    wants_color,
)

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: Final = {
    "demo": (
        "demo.command",
        "Stream a prompt through a whole setup, nothing to install.",
    ),
    "submit": ("submit_command", "Send a prompt and stream the answer."),
    "tail": ("job_commands", "Follow a job from any terminal."),
    "cancel": ("job_commands", "Cancel a job."),
    "status": ("job_commands", "Show the status of a job."),
    "list": ("job_commands", "List the newest jobs."),
    "batch": (
        "batch.command",
        "Run a file of prompts; resume without paying twice.",
    ),
    "models": ("models_command", "List the models that an upstream offers."),
    "dead": ("dead_command", "List and replay dead letters: jobs that could not run."),
    "worker": ("worker_command", "Start a worker."),
    "gateway": ("gateway_command", "Serve jobs over HTTP, also to OpenAI's clients."),
    "top": ("top.command", "Watch the fleet: workers, queue, errors, logins."),
    "doctor": (
        "doctor.command",
        "Check Redis, broker and login, with hints.",
    ),
    "schema": ("schema_command", "Print the contract: AsyncAPI, JSON Schemas."),
    "completion": (
        "completion_command",
        "Complete commands, options and job IDs by TAB.",
    ),
}
"""Name of a command: its module in this package, and the first sentence of its help."""


class Commands(SuggestingGroup):
    """The commands, each imported on use. Their errors become one line and an exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Any:
        """Run the program, whatever the encoding of the terminal."""
        use_nearest_characters()
        words = list(map(utf8_word, sys.argv[1:] if args is None else args))
        try:
            return super().main(words, *rest, **kwargs)
        except OSError as error:  # of completion, which writes before click handles errors
            if os.environ.get("BERLIN_DEBUG"):
                raise
            problem = _problem_of(error)
            problem.show()
            sys.exit(problem.exit_code)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line, and set colours by NO_COLOR, FORCE_COLOR and TERM."""
        environ = os.environ
        color = wants_color(
            *(environ.get(name, "") for name in ("NO_COLOR", "FORCE_COLOR", "TERM"))
        )
        with _errors_as_lines():  # of the output too: the help may go to a full disk
            return super().make_context(*args, **{"color": color, **kwargs})

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """List the names in the order in which a user learns them."""
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name][0]}")
        command = module.list_jobs if cmd_name == "list" else getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Complete the name of a command without importing one."""
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        items = [CompletionItem(name, help=COMMANDS[name][1]) for name in names]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Errors become tracebacks only if BERLIN_DEBUG is set."""
        with _errors_as_lines():
            return super().invoke(ctx)


@contextlib.contextmanager
def _errors_as_lines() -> Iterator[None]:
    """Raise any error as one of click, which prints one line."""
    try:
        yield
    except click.ClickException as error:
        # click would write UTF-8 even to an ASCII stream.
        error.message = fitting(error.message, sys.stderr)  # type: ignore[misc]  # click declares it final, and offers no hook before it is written
        raise
    except click.exceptions.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("BERLIN_DEBUG"):
            raise
        raise _problem_of(error) from None


def _problem_of(error: BaseException) -> click.ClickException:
    from berlin_worker.cli.errors import as_problem

    if isinstance(error, OSError):
        discard_unwritable()
    return as_problem(error)


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("berlin-worker")
        except PackageNotFoundError:
            number = "(not installed)"
        click.echo(f"berlin {number}")
        ctx.exit()


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from the environment: REDIS_URL, CELERY_BROKER_URL, BERLIN_ACCOUNT, "
    "BERLIN_PASSWORD, ... BERLIN_DEBUG=1 shows tracebacks. NO_COLOR=1 or TERM=dumb switches "
    "colours off, FORCE_COLOR=1 on.",
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
    """Send prompts through a queue, and stream the answers without a gap.

    New here? `berlin demo` needs nothing but this package.

    Exit codes: 0 completed, 1 failed, 2 wrong usage or settings, 130 interrupted, 141 the reader of
    the output has closed the pipe.
    """
