"""`berlin tail`, `cancel`, `status` and `list`: their options."""

import click

from berlin_worker.cli import numbers
from berlin_worker.cli.complete import job_ids
from berlin_worker.cli.job_options import check_id, output_options


@click.command()
@click.argument("job_id", metavar="ID", callback=check_id, shell_complete=job_ids)
@click.option("--after", type=numbers.SEQ, default=0, help="Skip events up to this seq.")
@output_options
@click.option(
    "--wait-for-start",
    "wait_s",
    type=numbers.Seconds(),
    default=0.0,
    show_default=True,
    help="Seconds to wait for a job that is not known yet.",
)
def tail(
    job_id: str, *, after: int, as_json: bool, final: bool, reasoning: bool, wait_s: float
) -> None:
    """Follow a job from any terminal.

    Replays the log from its start, or after an event, continues live, and ends with the job.
    After Ctrl-C the job goes on.

    \b
      berlin tail 0b1c2d3e
      berlin tail 0b1c2d3e --after 120 --json

    A job of another Celery producer is not known before a worker takes it: --wait-for-start waits
    for that. Exit code 0 for a completed job, also if --after names its last event; 1 for a failed
    or cancelled one.
    """
    if final and (as_json or after):
        raise click.UsageError("--final goes with neither --json nor --after.")
    import asyncio

    from berlin_worker.cli import job_actions as work

    shown = {"as_json": as_json, "final": final, "reasoning": reasoning}
    raise SystemExit(asyncio.run(work.tail(job_id, after, wait_s, **shown)))


@click.command()
@click.argument("job_id", metavar="ID", callback=check_id, shell_complete=job_ids)
@click.option("--wait/--no-wait", default=True, help="Wait up to 5 s for the end of the job.")
def cancel(job_id: str, wait: bool) -> None:
    """Cancel a job.

    To cancel a job twice, or after its end, has no effect.

    \b
      berlin cancel 0b1c2d3e
    """
    import asyncio

    from berlin_worker.cli import job_actions as work

    raise SystemExit(asyncio.run(work.cancel(job_id, wait=wait)))


@click.command()
@click.argument("job_id", metavar="ID", callback=check_id, shell_complete=job_ids)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def status(job_id: str, as_json: bool) -> None:
    """Show the status of a job.

    \b
      berlin status 0b1c2d3e
      berlin status 0b1c2d3e --json | jq -r .status

    Exit code 1 for a job that is not known.
    """
    import asyncio

    from berlin_worker.cli import job_actions as work

    raise SystemExit(asyncio.run(work.status(job_id, as_json=as_json)))


@click.command("list")
@click.option("--tenant", help="Only jobs of this tenant.")
@click.option(
    "--status",
    type=click.Choice(["queued", "running", "completed", "failed", "cancelled"]),
    help="Only jobs with this status.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="Maximum number of jobs.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON lines, in the format of `status --json`."
)
def list_jobs(tenant: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """List the newest jobs.

    Prints ID, status, age, tenant, and the error code of failed jobs, newest first. The list has
    jobs that `berlin` or a client has submitted or a worker has taken, until their records expire.

    \b
      berlin list
      berlin list --status failed --tenant acme
      berlin list --status running --json | jq -r .job_id
    """
    import asyncio

    from berlin_worker.cli import job_actions as work

    code = asyncio.run(work.list_jobs(tenant=tenant, status=status, limit=limit, as_json=as_json))
    raise SystemExit(code)
