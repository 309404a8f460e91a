"""`berlin schema`: its options."""

from pathlib import Path

import click

from berlin_worker.cli.paths import FilePath


@click.command()
@click.argument("name", default="asyncapi")
@click.option("--list", "listing", is_flag=True, help="Print the names of all documents.")
@click.option(
    "--write",
    metavar="FOLDER",
    type=FilePath(file_okay=False),
    help="Write all documents into a folder.",
)
@click.option(
    "--check",
    metavar="FOLDER",
    type=FilePath(file_okay=False),
    help="Compare the documents of a folder with the code; exit 1 if one differs.",
)
def schema(name: str, listing: bool, write: Path | None, check: Path | None) -> None:
    """Print the contract: AsyncAPI, JSON Schemas.

    NAME is a JSON Schema of --list; without it the AsyncAPI document is printed.

    \b
      berlin schema > asyncapi.json
      berlin schema event
      berlin schema --check schemas
    """
    from berlin_worker.cli import schema as work

    if write is not None:
        work.write(write)
    elif check is not None:
        raise SystemExit(work.check(check))
    elif listing:
        work.print_names()
    else:
        work.print_document(name)
