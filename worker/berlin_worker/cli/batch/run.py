"""Run a file of prompts: check it, send what is left, and sum up."""

import asyncio
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from berlin_worker.cli import no_worker
from berlin_worker.cli.batch.files import BatchFiles, BatchOutput, StdoutResults
from berlin_worker.cli.batch.lines import BadLine, KeptResult, Line, read_lines
from berlin_worker.cli.batch.preflight import (
    KnownResults,
    Preflight,
    WrongOutput,
    moved,
    run_preflight,
)
from berlin_worker.cli.batch.send import Sender, without_trace
from berlin_worker.cli.errors import FAILED, USAGE, Problem
from berlin_worker.cli.inputs import pieces, utf8_lines
from berlin_worker.cli.interrupts import Interrupts
from berlin_worker.cli.output import print_err, printable
from berlin_worker.cli.preflight import load_settings, open_client
from berlin_worker.client import AsyncClient, Unavailable

_RESUMES = "the same command goes on where it stopped, without paying twice"


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """The options of the command. The path ``-`` is stdin or stdout."""

    source: Path
    output: Path
    defaults: dict[str, Any]
    concurrency: int
    keep_going: bool
    retry_failed: bool
    expired: str | None

    @property
    def source_name(self) -> str:
        """What errors call the input."""
        return "stdin" if str(self.source) == "-" else str(self.source)

    @property
    def to_stdout(self) -> bool:
        """Whether results go to stdout, so that the batch cannot resume."""
        return str(self.output) == "-"


@dataclass(slots=True)
class _Work:
    """One run: its input, its output, and the counts of both."""

    plan: BatchOptions
    open_source: Callable[[], BinaryIO]
    output: BatchOutput
    known: KnownResults
    found: Preflight

    @contextlib.contextmanager
    def lines(self) -> Iterator[Iterator[Line | BadLine]]:
        """Open the input, and yield an iterator over its lines."""
        with self.open_source() as data:
            yield read_lines(
                utf8_lines(data, self.plan.source_name),
                self.output.progress.run,
                self.plan.defaults,
                max_bytes=load_settings().max_job_bytes,
            )

    def left(self, lines: Iterator[Line | BadLine]) -> Iterator[Line | BadLine | KeptResult]:
        """Yield the lines whose results are not in place, or the kept results of such lines."""
        for line in itertools.islice(lines, self.found.in_place, None):
            tried, known = self.known.match(line, retry_failed=self.plan.retry_failed)
            if known is None:
                yield tried
            else:
                yield KeptResult(line.number, moved(self.output.kept(known.place), line))


def run(plan: BatchOptions) -> int:
    """Run a batch; returns the exit code. Raises :class:`Problem` before anything is sent."""
    try:
        with _source(plan) as source, _output(plan) as output:
            return _run(plan, source, output)
    except WrongOutput as error:
        message = f"{plan.output} cannot be used for the results: {error}"
        raise Problem(message, USAGE, hint="choose another file with -o") from None


@contextlib.contextmanager
def _source(plan: BatchOptions) -> Iterator[Callable[[], BinaryIO]]:
    """Yield a function that opens the input from its start, because it is read more than once."""
    if str(plan.source) != "-":
        if not plan.source.is_file():
            raise click.UsageError(
                f"{plan.source} is not a regular file, and a batch reads its input more than once: "
                "give a regular file, or - for stdin."
            )
        yield lambda: plan.source.open("rb")
        return
    if sys.stdin is None:
        raise click.UsageError("Stdin is closed: give a file.")
    # A file without a name: no end of this process, not even by a signal, leaves prompts on disk.
    with tempfile.TemporaryFile() as spooled:
        spooled.writelines(pieces(sys.stdin.buffer))
        spooled.flush()

        def from_start() -> BinaryIO:
            os.lseek(spooled.fileno(), 0, os.SEEK_SET)
            return open(spooled.fileno(), "rb", closefd=False)

        yield from_start


def _output(plan: BatchOptions) -> contextlib.AbstractContextManager[BatchOutput]:
    if plan.to_stdout:
        if sys.stdout is None:
            raise click.UsageError("Stdout is closed: give a file with -o.")
        return contextlib.nullcontext(StdoutResults())
    try:
        return BatchFiles(plan.output)
    except OSError as error:
        raise WrongOutput(error.strerror or type(error).__name__) from None


def _run(plan: BatchOptions, source: Callable[[], BinaryIO], output: BatchOutput) -> int:
    work = _Work(plan, source, output, output.load(), Preflight())
    work.found = _checked(work)
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
        print_err(f"{found.unused} results of lines that are no longer in the input are in {kept}")
    print_err(f"{_summary(found)} in {'stdout' if plan.to_stdout else plan.output}")
    return FAILED if found.failed or found.done < found.total else 0


def _checked(work: _Work) -> Preflight:
    plan = work.plan
    name = plan.source_name
    with work.lines() as lines:
        found = run_preflight(lines, work.known, retry_failed=plan.retry_failed)
    if found.clashes:
        raise Problem(
            f"{name}: {'; '.join(found.clashes)}; nothing was sent",
            USAGE,
            hint="give each job an ID of its own",
        )
    if found.bad and not plan.keep_going:
        for line in found.bad_examples:
            print_err(printable(f"{name}:{line.number}: {line.problem}"))
        message = f"{found.bad} of {found.total} lines are not jobs; nothing was sent"
        raise Problem(message, USAGE, hint="correct them, or use --keep-going")
    return found


async def _send_all(work: _Work) -> int | None:
    """Send all lines. Return the exit code of an interruption, or ``None`` at the end."""
    resumes = (
        "a second run starts over, because results on stdout are not kept"
        if work.plan.to_stdout
        else _RESUMES
    )
    with Interrupts() as interrupts:
        async with open_client(submits=True) as client:
            sending = asyncio.create_task(_send(client, work))
            stopped = asyncio.create_task(interrupts.wait())
            hint = asyncio.create_task(no_worker.hint_once(lambda: work.found.done))
            try:
                await asyncio.wait({sending, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    await sending
                    return None
            except Unavailable as error:
                raise Problem(str(error), hint=resumes) from error
            finally:
                for task in (sending, stopped, hint):
                    task.cancel()
                await asyncio.wait({sending, stopped, hint})
    print_err(f"stopped with {_summary(work.found)}; jobs that were sent go on; {resumes}")
    return interrupts.exit_code


async def _send(client: AsyncClient, work: _Work) -> None:
    plan = work.plan
    gone = await _expired(client, work)
    if gone and plan.expired is None:
        shown = ", ".join(map(str, gone[:10])) + (", ..." if len(gone) > 10 else "")  # noqa: PLR2004  # a line's worth
        raise Problem(
            f"an earlier run may have sent {len(gone)} lines whose results have expired (lines "
            f"{shown}); nothing was sent",
            hint="use --expired=again to send them again, or --expired=skip to leave them out",
        )
    skip = frozenset(gone if plan.expired == "skip" else ())
    with work.lines() as lines, _progress_bar(work.found) as on_result:
        batch = Sender(
            client, work.output, concurrency=plan.concurrency, on_result=on_result, skip=skip
        )
        await batch.run(work.left(lines))


async def _expired(client: AsyncClient, work: _Work) -> list[int]:
    """Return the numbers of lines that an earlier run may have sent and whose jobs are gone."""
    progress = work.output.progress
    if time.time() - progress.since < load_settings().log_ttl_s:
        return []  # no record has expired yet, so a job without a record was not sent
    with work.lines() as lines:
        sent = itertools.takewhile(lambda line: line.number <= progress.sent, work.left(lines))
        return await without_trace(
            client, (line for line in sent if not isinstance(line, KeptResult))
        )


@contextlib.contextmanager
def _progress_bar(found: Preflight) -> Iterator[Callable[[dict[str, Any]], None]]:
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

        def on_result(result: dict[str, Any]) -> None:
            found.done += 1
            found.failed += result["status"] != "completed"
            description = f"batch [red]{found.failed} failed[/]" if found.failed else "batch"
            bar.update(task, advance=1, description=description)

        yield on_result


def _summary(found: Preflight) -> str:
    failed = f", {found.failed} of them not completed" if found.failed else ""
    return f"{found.done} of {found.total} results{failed}"
