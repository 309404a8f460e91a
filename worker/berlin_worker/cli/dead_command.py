"""`berlin dead`: its options."""

import re

import click

from berlin_worker.cli.groups import SuggestingGroup
from berlin_worker.cli.numbers import COUNT


def _check_entries(
    ctx: click.Context, _param: click.Parameter, entries: tuple[str, ...]
) -> tuple[str, ...]:
    for entry in entries:
        if not ctx.resilient_parsing and not re.fullmatch(r"[0-9]{1,19}-[0-9]{1,19}", entry):
            raise click.BadParameter(
                f"{entry!r} is not an entry: copy the first column of `berlin dead list`"
            )
    return entries


@click.group(cls=SuggestingGroup)
def dead() -> None:
    """List and replay dead letters: jobs that could not run.

    A dead letter is a malformed job, or a job that has ended its worker again and again. Redis
    keeps the newest WORKER_DEAD_LETTERS_MAX of them.
    """


@dead.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, with the job.")
@click.option("-n", "limit", type=COUNT, help="Maximum number of dead letters.")
def list_entries(*, as_json: bool, limit: int | None) -> None:
    """List dead letters, newest first. Only --json shows prompts.

    \b
      berlin dead list -n 20
      berlin dead list --json | jq -r .reason | sort | uniq -c
    """
    from berlin_worker.cli import dead as work

    work.list_entries(as_json=as_json, limit=limit)


@dead.command()
@click.argument("entries", nargs=-1, required=True, metavar="ENTRY...", callback=_check_entries)
def replay(entries: tuple[str, ...]) -> None:
    """Put dead letters on the queue again, each as a job with a new ID.

    Prints the new IDs. ENTRY is the first column of `berlin dead list`. Removes each dead letter
    that was replayed. The new ID follows from the dead letter: it runs once, even if it is replayed
    twice.

    \b
      berlin dead replay 1763805600000-0
    """
    from berlin_worker.cli import dead as work

    raise SystemExit(work.replay(entries))
