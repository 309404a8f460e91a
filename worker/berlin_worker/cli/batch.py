"""`berlin batch`."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from berlin_worker.cli.batch_files import BatchFiles
from berlin_worker.cli.batch_lines import BadLine, Line, Survey, WrongOutput, read_lines, survey
from berlin_worker.cli.batch_run import Batch, without_trace
from berlin_worker.cli.errors import FAILED, USAGE, Problem
from berlin_worker.cli.fields import job_options
from berlin_worker.cli.interrupts import Interrupts
from berlin_worker.cli.output import printable, say
from berlin_worker.cli.reach import load_settings, open_client
from berlin_worker.client import AsyncClient, Unavailable

_RESUMES = "the same command goes on where it stopped, without paying twice"

Expired = Literal["again", "skip"] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user has asked for."""

    source: Path
    defaults: dict[str, Any]
    concurrency: int
    keep_going: bool
    expired: Expired


@click.command()
@click.argument(
    "source", metavar="PROMPTS.JSONL", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Where the results go, one JSON object a line, in the order of the input.",
)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Jobs in flight at most.",
)
@click.option("--keep-going", is_flag=True, help="A line that is no job becomes a failed result.")
@click.option(
    "--expired",
    type=click.Choice(["again", "skip"]),
    help="What to do with lines whose results have expired before they were fetched.",
)
@job_options(short_option=False)
def batch(
    *,
    source: Path,
    output: Path,
    concurrency: int,
    keep_going: bool,
    expired: Expired,
    **defaults: Any,
) -> None:
    """Run a file of prompts; resumes without paying twice.

    Each line of the input is a job object, {"prompt": "...", "system": "...", "id": "..."}, or a
    string; options of the command are defaults for all lines. All lines are checked before the
    first is sent; a line that is no job ends it then, unless --keep-going.

    \b
      berlin batch prompts.jsonl -o results.jsonl
      berlin batch prompts.jsonl -o results.jsonl -c 200 --system "In one sentence."
      jq -r 'select(.status == "completed") | .text' results.jsonl

    Ctrl-C, a crash, a reboot: run the same command again. Lines that have a result are skipped,
    and jobs that were sent are found by their ID and followed, not sent anew (RESULTS.run notes
    what was sent; remove the results to start over). Redis keeps the result of a job
    WORKER_LOG_TTL_S (an hour) after its end: where it is gone, nothing is sent before you say by
    --expired=again (and pay again) or --expired=skip.

    A result: {"line", "id", "job_id", "status", "text", "finish_reason", "usage", "timings"}, or
    {..., "status": "failed", "error": {...}}. Exit code 1 if any line has no completed job.
    """
    if not source.is_file():
        raise click.UsageError(
            f"{source} is no file on disk: it is read twice, and again to resume."
        )
    plan = Plan(source, defaults, concurrency, keep_going, expired)
    try:
        with BatchFiles(output) as files:
            found = _survey(plan, files)
            code = asyncio.run(_run(plan, files, found)) if found.done < found.total else None
            if code is None:
                code = FAILED if found.failed or found.done < found.total else 0
                say(f"{_summary(found)} in {output}")
    except WrongOutput as error:
        told = f"{output} cannot be used for the results: {error}"
        raise Problem(told, USAGE, advice="choose another file with -o") from None
    raise SystemExit(code)


def _survey(plan: Plan, files: BatchFiles) -> Survey:
    with _lines(plan, files) as lines:
        found = survey(lines, files.results())
    if found.bad and not plan.keep_going:
        for line in found.bad_examples:
            say(printable(f"{plan.source}:{line.number}: {line.problem}"))
        told = f"{found.bad} of {found.total} lines are no jobs; nothing was sent"
        raise Problem(told, USAGE, advice="mend them, or use --keep-going")
    return found


@contextlib.contextmanager
def _lines(plan: Plan, files: BatchFiles) -> Iterator[Iterator[Line | BadLine]]:
    with plan.source.open("rb") as data:
        yield read_lines(data, files.note.run, plan.defaults)


async def _run(plan: Plan, files: BatchFiles, found: Survey) -> int | None:
    """The exit code of an interruption, or ``None`` where all is done; ``found`` keeps count."""
    with Interrupts() as interrupts:
        async with open_client() as client:
            work = asyncio.create_task(_send(client, plan, files, found))
            stopped = asyncio.create_task(interrupts.wait())
            try:
                await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await work
                    return None
            except Unavailable as error:
                raise Problem(str(error), advice=_RESUMES) from error
            finally:
                work.cancel()
                stopped.cancel()
                await asyncio.wait({work, stopped})
    say(f"stopped with {_summary(found)}; jobs that were sent go on; {_RESUMES}")
    return interrupts.exit_code


async def _send(client: AsyncClient, plan: Plan, files: BatchFiles, found: Survey) -> None:
    gone = await _expired(client, plan, files, found)
    if gone and plan.expired is None:
        shown = ", ".join(map(str, gone[:10])) + (", ..." if len(gone) > 10 else "")  # noqa: PLR2004
        raise Problem(
            f"{len(gone)} lines were sent by an earlier run, and their results have expired or "
            f"were never begun (lines {shown}); nothing was sent",
            advice="--expired=again sends them (again), --expired=skip leaves them out",
        )
    skip = frozenset(gone if plan.expired == "skip" else ())
    with _lines(plan, files) as lines, _progress(found) as told:
        batch = Batch(client, files, concurrency=plan.concurrency, told=told, skip=skip)
        await batch.run(itertools.islice(lines, found.done, None))


async def _expired(client: AsyncClient, plan: Plan, files: BatchFiles, found: Survey) -> list[int]:
    """The lines that an earlier run may have sent, and of which nothing is left."""
    note = files.note
    if time.time() - note.since < load_settings().log_ttl_s:
        return []  # what was sent is still known: what is not known was not sent
    with _lines(plan, files) as lines:
        rest = itertools.islice(lines, found.done, None)
        return await without_trace(
            client, itertools.takewhile(lambda line: line.number <= note.sent, rest)
        )


@contextlib.contextmanager
def _progress(found: Survey) -> Iterator[Callable[[dict[str, Any]], None]]:
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("batch", total=found.total, completed=found.done)

        def told(result: dict[str, Any]) -> None:
            found.done += 1
            found.failed += result["status"] != "completed"
            description = f"batch [red]{found.failed} failed[/]" if found.failed else "batch"
            bar.update(task, advance=1, description=description)

        yield told


def _summary(found: Survey) -> str:
    failed = f", {found.failed} of them not completed" if found.failed else ""
    return f"{found.done} of {found.total} results{failed}"
