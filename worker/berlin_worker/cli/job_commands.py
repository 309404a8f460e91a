"""`berlin tail`, `cancel`, `status` and `list`: their options."""

import click

from berlin_worker.cli.complete import job_ids
from berlin_worker.cli.job_options import check_id


@click.command()
@click.argument("job_id", metavar="ID", callback=check_id, shell_complete=job_ids)
@click.option("--after", type=click.IntRange(min=0), default=0, help="Skip events up to this seq.")
@click.option("--json", "as_json", is_flag=True, help="Events as NDJSON, as they are in the log.")
@click.option("--final", is_flag=True, help="Print the text once, when it is complete.")
@click.option(
    "--wait-for-start",
    "wait_s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Seconds to wait for a job of which there is no trace yet.",
)
def tail(job_id: str, after: int, as_json: bool, final: bool, wait_s: float) -> None:
    """Follow a job from any terminal.

    Replays the log from its start, or after an event, goes on live, and ends with the job.
    Ctrl-C leaves, and the job goes on.

    \b
      berlin tail 0b1c2d3e
      berlin tail 0b1c2d3e --after 120 --json

    A job that another Celery producer has put on the queue shows no trace before a worker takes
    it: --wait-for-start waits for that. Exit code 0 for a completed job, also if --after names its
    last event; 1 for a failed or cancelled one.
    """
    if final and (as_json or after):
        raise click.UsageError("--final goes with neither --json nor --after.")
    import asyncio

    from berlin_worker.cli import job_actions as work

    code = asyncio.run(work.tail(job_id, after, wait_s, as_json=as_json, final=final))
    raise SystemExit(code)


@click.command()
@click.argument("job_id", metavar="ID", callback=check_id, shell_complete=job_ids)
@click.option("--wait/--no-wait", default=True, help="Wait some seconds for its end.")
def cancel(job_id: str, wait: bool) -> None:
    """Cancel a job.

    Cancelling twice, or after its end, does no harm.

    \b
      berlin cancel 0b1c2d3e
    """
    import asyncio

    from berlin_worker.cli import job_actions as work

    raise SystemExit(asyncio.run(work.cancel(job_id, wait=wait)))


@click.command()
@click.argument("job_id", metavar="ID", callback=check_id, shell_complete=job_ids)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(job_id: str, as_json: bool) -> None:
    """Show how a job stands.

    \b
      berlin status 0b1c2d3e
      berlin status 0b1c2d3e --json | jq -r .status

    Exit code 1 for a job that is not known.
    """
    import asyncio

    from berlin_worker.cli import job_actions as work

    raise SystemExit(asyncio.run(work.status(job_id, as_json=as_json)))


@click.command("list")
@click.option("--tenant", help="Those of one tenant.")
@click.option(
    "--status",
    type=click.Choice(["queued", "running", "completed", "failed", "cancelled"]),
    help="Those that stand so.",
)
@click.option(
    "-n", "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as `status --json`.")
def list_jobs(tenant: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """List the newest jobs.

    Newest first: ID, status, age, tenant, and the error code of a failed one. A job is listed once
    it was submitted by this command or a client, or taken by a worker, as long as its record lasts.

    \b
      berlin list
      berlin list --status failed --tenant acme
      berlin list --status running --json | jq -r .job_id
    """
    import asyncio

    from berlin_worker.cli import job_actions as work

    code = asyncio.run(work.list_jobs(tenant=tenant, status=status, limit=limit, as_json=as_json))
    raise SystemExit(code)
