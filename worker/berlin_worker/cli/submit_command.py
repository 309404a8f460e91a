"""`berlin submit`: its options."""

from pathlib import Path
from typing import Any

import click

from berlin_worker.cli.job_options import (
    build_job,
    check_id,
    from_prompt,
    job_options,
    output_options,
)
from berlin_worker.cli.paths import FilePath


@click.command(
    epilog="Ctrl-C cancels the job, and so does a reader that closes the pipe (`... | head -1`)."
)
@click.argument("prompt", required=False, metavar="[PROMPT|-]")
@click.option(
    "--file",
    "-f",
    "path",
    type=FilePath(exists=True, dir_okay=False, allow_dash=True),
    help="JSON file with a job object instead of a prompt (- for stdin); options override it.",
)
@click.option(
    "--stdin/--no-stdin",
    "use_stdin",
    default=None,
    help="Wait for stdin, or do not read it. [default: join stdin if data comes within 5 s]",
)
@click.option(
    "--job-id", callback=check_id, help="Your own ID: a job submitted twice under it runs once."
)
@output_options
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE|URL",
    help="An image beside the prompt, for providers that take images. Repeatable.",
)
@click.option("--wait/--no-wait", default=True, help="Stream the answer, or only print the job ID.")
@job_options(short_option=True)
def submit(
    *,
    prompt: str | None,
    path: Path | None,
    use_stdin: bool | None,
    job_id: str | None,
    as_json: bool,
    final: bool,
    reasoning: bool,
    images: tuple[str, ...],
    wait: bool,
    **given: Any,
) -> None:
    """Send a prompt and stream the answer.

    PROMPT is the text. Stdin is joined to it: the prompt, a blank line, the text of stdin. Without
    PROMPT, or with -, stdin is the prompt. The answer streams to stdout, notices go to stderr.

    \b
      berlin submit "Why is the sky blue?"
      cat report.txt | berlin submit "Summarise"
      git diff | berlin submit --system "Review this." -o temperature=0.2
      berlin submit "What is this?" --image photo.jpg --provider openai --model gpt-4o
      berlin submit "Hello" --no-wait | xargs berlin tail

    With a PROMPT, stdin is not read if it is a terminal. A pipe without data for 5 s is left out
    with a notice, so that cron and CI jobs do not hang. `--stdin` waits for a slow program. In a
    `while read` loop use `--no-stdin` or `</dev/null`: otherwise the first prompt takes the rest
    of the list.

    After a retry the text may start again. Text already written cannot be taken back, so a notice
    goes to stderr and the new text starts on a new line. --final prints only the complete text;
    --json marks the point with a `reset` event. Text in a pipe ends with a newline.
    """
    if as_json and final:
        raise click.UsageError("Use either --json or --final.")
    if path is not None and (prompt is not None or use_stdin):
        raise click.UsageError("--file is the whole job: leave out PROMPT and --stdin.")
    from berlin_worker.cli.inputs import job_file, prompt_text

    base = job_file(path) if path else from_prompt(prompt_text(prompt, use_stdin=use_stdin))
    job = build_job(base, given)
    if images:
        from berlin_worker.cli.images import with_images

        job = with_images(job, images)
    import asyncio

    from berlin_worker.cli.submit import run

    shown = {"as_json": as_json, "final": final, "reasoning": reasoning}
    raise SystemExit(asyncio.run(run(job, job_id, wait=wait, **shown)))
