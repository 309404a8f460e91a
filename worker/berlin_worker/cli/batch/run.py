"""Run a file of prompts: what is left to do, done, and summed up."""

import asyncio
import contextlib
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from berlin_worker.cli import no_worker
from berlin_worker.cli.batch.files import BatchFiles, BatchOutput, StdoutResults
from berlin_worker.cli.batch.lines import BadLine, Kept, Line, read_lines
from berlin_worker.cli.batch.preflight import KnownResults, Preflight, WrongOutput, moved, survey
from berlin_worker.cli.batch.send import Batch, without_trace
from berlin_worker.cli.errors import FAILED, USAGE, Problem
from berlin_worker.cli.inputs import utf8_lines
from berlin_worker.cli.interrupts import Interrupts
from berlin_worker.cli.output import printable, say
from berlin_worker.cli.preflight import load_settings, open_client
from berlin_worker.client import AsyncClient, Unavailable

_RESUMES = "the same command goes on where it stopped, without paying twice"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user has asked for; ``-`` as a path is stdin or stdout."""

    source: Path
    output: Path
    defaults: dict[str, Any]
    concurrency: int
    keep_going: bool
    retry_failed: bool
    expired: str | None

    @property
    def to_stdout(self) -> bool:
        """Whether results go to stdout, and nothing is kept."""
        return str(self.output) == "-"


@dataclass(slots=True)
class _Work:
    """One run: its input, its output, and what is known of both."""

    plan: Plan
    source: Path
    output: BatchOutput
    known: KnownResults
    found: Preflight

    @contextlib.contextmanager
    def lines(self) -> Iterator[Iterator[Line | BadLine]]:
        """All lines of the input."""
        with self.source.open("rb") as data:
            yield read_lines(utf8_lines(data), self.output.note.run, self.plan.defaults)

    def left(self, lines: Iterator[Line | BadLine]) -> Iterator[Line | BadLine | Kept]:
        """The lines whose results are not in place; a result that is kept in place of its line."""
        for line in itertools.islice(lines, self.found.in_place, None):
            tried, known = self.known.decide(line, retry_failed=self.plan.retry_failed)
            if known is None:
                yield tried
            else:
                yield Kept(line.number, moved(self.output.kept(known.place), line))


def run(plan: Plan) -> int:
    """Run a batch; returns the exit code. Raises :class:`Problem` before anything is sent."""
    try:
        with _source(plan) as source, _output(plan) as output:
            return _run(plan, source, output)
    except WrongOutput as error:
        told = f"{plan.output} cannot be used for the results: {error}"
        raise Problem(told, USAGE, advice="choose another file with -o") from None


@contextlib.contextmanager
def _source(plan: Plan) -> Iterator[Path]:
    """The input as a file on disk, since it is read more than once."""
    if str(plan.source) != "-":
        if not plan.source.is_file():
            raise click.UsageError(
                f"{plan.source} is no file on disk: it is read twice, and again to resume. "
                "- reads stdin."
            )
        yield plan.source
        return
    if sys.stdin is None:
        raise click.UsageError("There is no stdin to read.")
    with tempfile.NamedTemporaryFile(prefix="berlin-batch-", suffix=".jsonl") as spooled:
        shutil.copyfileobj(sys.stdin.buffer, spooled)
        spooled.flush()
        yield Path(spooled.name)


def _output(plan: Plan) -> contextlib.AbstractContextManager[BatchOutput]:
    if plan.to_stdout:
        return contextlib.nullcontext(StdoutResults())
    return BatchFiles(plan.output)


def _run(plan: Plan, source: Path, output: BatchOutput) -> int:
    work = _Work(plan, source, output, output.load(), Preflight())
    work.found = _survey(work)
    code = None
    if work.found.in_place < max(work.found.total, work.known.in_file):
        if work.found.in_place < work.known.in_file or work.found.done > work.found.in_place:
            work.known = output.set_aside(work.known, work.found.in_place)
        code = asyncio.run(_send_all(work))
    if code is not None:
        return code
    found = work.found
    kept = f"{plan.output}.kept"
    output.finish(unused=found.unused)
    if found.unused:
        say(f"{found.unused} results of lines that are no longer in the input are in {kept}")
    say(f"{_summary(found)} in {'stdout' if plan.to_stdout else plan.output}")
    return FAILED if found.failed or found.done < found.total else 0


def _survey(work: _Work) -> Preflight:
    plan = work.plan
    name = "stdin" if str(plan.source) == "-" else plan.source
    with work.lines() as lines:
        found = survey(lines, work.known, retry_failed=plan.retry_failed)
    if found.clashes:
        raise Problem(
            f"{name}: {'; '.join(found.clashes)}; nothing was sent",
            USAGE,
            advice="give each job an ID of its own",
        )
    if found.bad and not plan.keep_going:
        for line in found.bad_examples:
            say(printable(f"{name}:{line.number}: {line.problem}"))
        told = f"{found.bad} of {found.total} lines are no jobs; nothing was sent"
        raise Problem(told, USAGE, advice="mend them, or use --keep-going")
    return found


async def _send_all(work: _Work) -> int | None:
    """The exit code of an interruption, or ``None`` if all is done; ``found`` keeps count."""
    resumes = "the results so far are lost to a second run" if work.plan.to_stdout else _RESUMES
    with Interrupts() as interrupts:
        async with open_client() as client:
            sending = asyncio.create_task(_send(client, work))
            stopped = asyncio.create_task(interrupts.wait())
            hint = asyncio.create_task(no_worker.say_once(lambda: work.found.done))
            try:
                await asyncio.wait({sending, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    await sending
                    return None
            except Unavailable as error:
                raise Problem(str(error), advice=resumes) from error
            finally:
                for task in (sending, stopped, hint):
                    task.cancel()
                await asyncio.wait({sending, stopped, hint})
    say(f"stopped with {_summary(work.found)}; jobs that were sent go on; {resumes}")
    return interrupts.exit_code


async def _send(client: AsyncClient, work: _Work) -> None:
    plan = work.plan
    gone = await _expired(client, work)
    if gone and plan.expired is None:
        shown = ", ".join(map(str, gone[:10])) + (", ..." if len(gone) > 10 else "")  # noqa: PLR2004  # a line's worth
        raise Problem(
            f"{len(gone)} lines were sent by an earlier run, and their results have expired or "
            f"were never begun (lines {shown}); nothing was sent",
            advice="--expired=again sends them (again), --expired=skip leaves them out",
        )
    skip = frozenset(gone if plan.expired == "skip" else ())
    with work.lines() as lines, _progress(work.found) as told:
        batch = Batch(client, work.output, concurrency=plan.concurrency, told=told, skip=skip)
        await batch.run(work.left(lines))


async def _expired(client: AsyncClient, work: _Work) -> list[int]:
    """The lines that an earlier run may have sent, and of which nothing is left."""
    note = work.output.note
    if time.time() - note.since < load_settings().log_ttl_s:
        return []  # what was sent is still known: what is not known was not sent
    with work.lines() as lines:
        sent = itertools.takewhile(lambda line: line.number <= note.sent, work.left(lines))
        return await without_trace(client, (line for line in sent if not isinstance(line, Kept)))


@contextlib.contextmanager
def _progress(found: Preflight) -> Iterator[Callable[[dict[str, Any]], None]]:
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_interactive or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task("batch", total=found.total, completed=found.done)

        def told(result: dict[str, Any]) -> None:
            found.done += 1
            found.failed += result["status"] != "completed"
            description = f"batch [red]{found.failed} failed[/]" if found.failed else "batch"
            bar.update(task, advance=1, description=description)

        yield told


def _summary(found: Preflight) -> str:
    failed = f", {found.failed} of them not completed" if found.failed else ""
    return f"{found.done} of {found.total} results{failed}"
