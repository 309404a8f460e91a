"""`berlin batch`: its options."""

from pathlib import Path
from typing import Any

import click

from berlin_worker.cli.job_options import job_options
from berlin_worker.cli.numbers import COUNT
from berlin_worker.cli.paths import FilePath


@click.command()
@click.argument(
    "source",
    metavar="PROMPTS.JSONL",
    type=FilePath(exists=True, dir_okay=False, allow_dash=True),
)
@click.option(
    "-o",
    "--output",
    type=FilePath(dir_okay=False, allow_dash=True),
    required=True,
    help="File for the results: JSON lines in the order of the input; - for stdout.",
)
@click.option(
    "-c",
    "--concurrency",
    type=COUNT,
    default=32,
    show_default=True,
    help="Maximum number of jobs in flight.",
)
@click.option(
    "--keep-going", is_flag=True, help="Write a failed result for a line that is not a job."
)
@click.option("--retry-failed", is_flag=True, help="Run lines again whose job was not completed.")
@click.option(
    "--expired",
    type=click.Choice(["again", "skip"]),
    help="Send lines again, or skip them, if their results expired before they were read.",
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
    """Run a file of prompts; resume without paying twice.

    Each line of the input is a job object, {"prompt": "...", "system": "...", "id": "..."}, or a
    string. Options of the command are defaults for all lines. Blank lines are skipped. All lines
    are checked before the first is sent. A line that is not a job ends the command, unless
    --keep-going is given. Two different lines with one job_id always end it.

    \b
      berlin batch prompts.jsonl -o results.jsonl
      berlin batch prompts.jsonl -o results.jsonl -c 200 --system "In one sentence."
      berlin batch prompts.jsonl -o results.jsonl --retry-failed
      jq -c .question faq.jsonl | berlin batch - -o - | jq -r .text
      jq -r 'select(.status == "completed") | .text' results.jsonl

    After Ctrl-C, a crash or a reboot run the same command again. Lines with a result are skipped.
    Jobs that were sent are found by their ID and followed, not sent again. Only changed lines run
    under a new ID, and failed ones with --retry-failed. With `-o -` a batch cannot resume.

    \b
    Files beside RESULTS:
      RESULTS.run     progress; remove RESULTS itself to start over
      RESULTS.kept    results during a resumed run, and of lines that are no longer in the input

    Redis keeps the result of a job for WORKER_LOG_TTL_S (an hour) after its end. If results have
    expired, nothing is sent until you choose --expired=again (and pay again) or --expired=skip.
    Set that variable here as for the workers: this command checks for expired results by its own.

    A result: {"line", "id", "job_id", "fingerprint", "status", "text", "finish_reason", "usage",
    "timings"}, with "reasoning", "tool_calls" and "usage_total" (of several attempts) if there are
    any, or {..., "status": "failed", "error": {...}}. Exit code 1 if a job of any line was not
    completed.
    """
    from berlin_worker.cli.batch import run as work

    plan = work.BatchOptions(
        source=source,
        output=output,
        defaults=defaults,
        concurrency=concurrency,
        keep_going=keep_going,
        retry_failed=retry_failed,
        expired=expired,
    )
    raise SystemExit(work.run(plan))
