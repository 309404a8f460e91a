"""`berlin batch`: its options."""

from pathlib import Path
from typing import Any

import click

from berlin_worker.cli.job_options import job_options


@click.command()
@click.argument(
    "source",
    metavar="PROMPTS.JSONL",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    required=True,
    help="Where the results go, one JSON object a line, in the order of the input; - for stdout.",
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
    "--retry-failed", is_flag=True, help="Run lines again whose result is no completed job."
)
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
    retry_failed: bool,
    expired: str | None,
    **defaults: Any,
) -> None:
    """Run a file of prompts; resumes without paying twice.

    Each line of the input is a job object, {"prompt": "...", "system": "...", "id": "..."}, or a
    string; options of the command are defaults for all lines. Blank lines are left out. All lines
    are checked before the first is sent; a line that is no job ends it then, unless --keep-going.
    Two different lines with one job_id always end it.

    \b
      berlin batch prompts.jsonl -o results.jsonl
      berlin batch prompts.jsonl -o results.jsonl -c 200 --system "In one sentence."
      berlin batch prompts.jsonl -o results.jsonl --retry-failed
      jq -c .question faq.jsonl | berlin batch - -o - | jq -r .text
      jq -r 'select(.status == "completed") | .text' results.jsonl

    Ctrl-C, a crash, a reboot: run the same command again. Lines that have a result are skipped,
    and jobs that were sent are found by their ID and followed, not sent anew (RESULTS.run notes
    what was sent; remove the results to start over). A line that was changed since runs alone,
    under a new ID; so does a failed one with --retry-failed. Meanwhile the other results are in
    RESULTS.kept, where results of lines that the input has no longer remain. With `-o -` nothing
    is kept to resume from.

    Redis keeps the result of a job WORKER_LOG_TTL_S (an hour) after its end: if it is gone, nothing
    is sent before you say by --expired=again (and pay again) or --expired=skip.

    A result: {"line", "id", "job_id", "fingerprint", "status", "text", "finish_reason", "usage",
    "timings"}, or {..., "status": "failed", "error": {...}}. Exit code 1 if any line has no
    completed job.
    """
    from berlin_worker.cli.batch import run as work

    plan = work.Plan(
        source=source,
        output=output,
        defaults=defaults,
        concurrency=concurrency,
        keep_going=keep_going,
        retry_failed=retry_failed,
        expired=expired,
    )
    raise SystemExit(work.run(plan))
