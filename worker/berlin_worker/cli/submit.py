"""`berlin submit`."""

import asyncio
from pathlib import Path
from typing import Any

import click

from berlin_schemas.names import check_job_id, new_job_id
from berlin_worker.cli.fields import (
    build_job,
    check_id,
    from_file,
    from_prompt,
    from_stdin,
    job_options,
)
from berlin_worker.cli.follow import follow
from berlin_worker.cli.output import say
from berlin_worker.cli.reach import open_client


@click.command(
    epilog="Ctrl-C cancels the job, and so does a reader that goes away (`... | head -1`)."
)
@click.argument("prompt", required=False, metavar="[PROMPT|-]")
@click.option(
    "--file",
    "-f",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A job object in JSON in place of a prompt; options win over it.",
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
    job_id: str | None,
    as_json: bool,
    final: bool,
    wait: bool,
    **given: Any,
) -> None:
    """Send a prompt and stream the answer.

    PROMPT is the text, or - to read it from stdin. The text goes to stdout as it comes;
    all else goes to stderr.

    \b
      berlin submit "Why is the sky blue?"
      git diff | berlin submit - --system "Review this." -o temperature=0.2
      berlin submit "Hello" --no-wait | xargs berlin tail

    After a retry the stream may start anew: what was written to a pipe before cannot be
    taken back, so a notice goes to stderr and the new text follows on a new line. Use --final
    for the right text alone, or --json, where a `reset` event says it exactly.
    """
    if (prompt is None) == (path is None):
        raise click.UsageError("Give a PROMPT, - for stdin, or --file.")
    if as_json and final:
        raise click.UsageError("--json and --final exclude each other.")
    base = from_file(path) if path else from_prompt(from_stdin() if prompt == "-" else prompt or "")
    job = build_job(base, given)
    raise SystemExit(asyncio.run(_submit(job, job_id, wait=wait, as_json=as_json, final=final)))


async def _submit(
    job: dict[str, Any], job_id: str | None, *, wait: bool, as_json: bool, final: bool
) -> int:
    job_id = job_id or job.get("job_id") or new_job_id()
    async with open_client() as client:
        if not wait:
            click.echo(await client.submit(job, job_id=job_id))
            return 0
        stream = client.submit_and_stream(job, job_id=job_id)
        # One quick question first: a Redis that is not there shows at once.
        known = await client.status(check_job_id(job_id))
        say(f"job {job_id}" + known_as(known.status), dim=True)
        return await follow(client, stream, as_json=as_json, final=final, cancel=True)


def known_as(status: str) -> str:
    """What is said of a job that was submitted before."""
    return "" if status == "unknown" else f" was submitted before, and is {status}"
