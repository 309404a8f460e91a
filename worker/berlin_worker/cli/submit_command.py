"""`berlin submit`: its options."""

from pathlib import Path
from typing import Any

import click

from berlin_worker.cli.job_options import build_job, check_id, from_prompt, job_options


@click.command(
    epilog="Ctrl-C cancels the job, and so does a reader that goes away (`... | head -1`)."
)
@click.argument("prompt", required=False, metavar="[PROMPT|-]")
@click.option(
    "--file",
    "-f",
    "path",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A job object in JSON in place of a prompt (- for stdin); options win over it.",
)
@click.option(
    "--stdin/--no-stdin",
    "use_stdin",
    default=None,
    help="Wait for stdin however long, or leave it alone. [default: join it if something comes]",
)
@click.option(
    "--job-id", callback=check_id, help="ID of your own: submitted twice, the job runs once."
)
@click.option("--json", "as_json", is_flag=True, help="Events as NDJSON, as they are in the log.")
@click.option("--final", is_flag=True, help="Print the text once, when it is complete.")
@click.option("--wait/--no-wait", default=True, help="Stream the answer, or print the ID only.")
@job_options(short_option=True)
def submit(
    *,
    prompt: str | None,
    path: Path | None,
    use_stdin: bool | None,
    job_id: str | None,
    as_json: bool,
    final: bool,
    wait: bool,
    **given: Any,
) -> None:
    """Send a prompt and stream the answer.

    PROMPT is the text. Text from stdin is joined to it: the prompt, a blank line, the text of
    stdin. Without PROMPT, or with -, stdin is the prompt. The answer goes to stdout as it comes;
    all else goes to stderr.

    \b
      berlin submit "Why is the sky blue?"
      cat report.txt | berlin submit "Summarise"
      git diff | berlin submit --system "Review this." -o temperature=0.2
      berlin submit "Hello" --no-wait | xargs berlin tail

    A terminal is not read beside a PROMPT. An open pipe on which nothing comes for 5 seconds is
    left out with a notice, so that cron and CI jobs do not hang; `--stdin` waits for a slow
    program. In a `while read` loop give `--no-stdin` or `</dev/null`, else the first prompt takes
    the rest of the list.

    After a retry the stream may start anew: what was written to a pipe before cannot be
    taken back, so a notice goes to stderr and the new text follows on a new line. Use --final
    for the right text alone, or --json, where a `reset` event says it exactly. Text in a pipe ends
    with a newline.
    """
    if as_json and final:
        raise click.UsageError("--json and --final exclude each other.")
    if path is not None and (prompt is not None or use_stdin):
        raise click.UsageError(
            "--file goes with neither a PROMPT nor --stdin: it is the whole job."
        )
    from berlin_worker.cli.inputs import job_file, prompt_text

    base = job_file(path) if path else from_prompt(prompt_text(prompt, use_stdin=use_stdin))
    job = build_job(base, given)
    import asyncio

    from berlin_worker.cli.submit import run

    raise SystemExit(asyncio.run(run(job, job_id, wait=wait, as_json=as_json, final=final)))
