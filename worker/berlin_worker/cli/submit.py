"""Submit one job, and follow it."""

from typing import Any

import click

from berlin_schemas.names import check_job_id, new_job_id
from berlin_worker.cli.errors import FAILED
from berlin_worker.cli.follow import follow
from berlin_worker.cli.output import say
from berlin_worker.cli.preflight import open_client


async def run(
    job: dict[str, Any], job_id: str | None, *, wait: bool, as_json: bool, final: bool
) -> int:
    """Submit ``job``; returns the exit code at its end, at once without ``wait``."""
    job_id = job_id or job.get("job_id") or new_job_id()
    async with open_client() as client:
        if not wait:
            click.echo(await client.submit(job, job_id=job_id))
            return 0
        stream = client.submit_and_stream(job, job_id=job_id)
        # One quick question first: a Redis that is not there shows at once.
        known = await client.status(check_job_id(job_id))
        say(f"job {job_id}" + known_as(known.status), dim=True)
        code = await follow(client, stream, as_json=as_json, final=final, cancel=True)
        return FAILED if code is None else code


def known_as(status: str) -> str:
    """What is said of a job that was submitted before."""
    return "" if status == "unknown" else f" was submitted before, and is {status}"
