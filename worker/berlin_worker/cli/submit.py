"""Submit one job, and follow it."""

from typing import Any, NoReturn

import click
from redis.exceptions import NoPermissionError

from berlin_schemas.names import check_job_id, new_job_id
from berlin_worker.cli.errors import FAILED, Problem
from berlin_worker.cli.follow import follow
from berlin_worker.cli.output import print_err
from berlin_worker.cli.preflight import open_client
from berlin_worker.client import AsyncClient
from berlin_worker.errors import Unavailable


async def run(
    job: dict[str, Any],
    job_id: str | None,
    *,
    wait: bool,
    as_json: bool,
    final: bool,
    reasoning: bool = False,
) -> int:
    """Submit ``job``, and with ``wait`` follow it to its end. Return the exit code."""
    job_id = job_id or job.get("job_id") or new_job_id()
    async with open_client(submits=True) as client:
        if not wait:
            click.echo(await client.submit(job, job_id=job_id))
            return 0
        stream = client.submit_and_stream(job, job_id=job_id)
        try:
            # First a short request, so that a Redis that does not answer shows at once.
            known = await client.status(check_job_id(job_id))
        except Unavailable as error:
            if isinstance(error.__cause__, NoPermissionError):
                await _submit_unread(client, job, job_id, error)
            raise
        print_err(f"job {job_id}" + known_as(known.status), dim=True)
        code = await follow(
            client, stream, as_json=as_json, final=final, cancel=True, reasoning=reasoning
        )
        return FAILED if code is None else code


async def _submit_unread(
    client: AsyncClient, job: dict[str, Any], job_id: str, error: Unavailable
) -> NoReturn:
    """Submit the job of a user that may not read replies. Raises ``Problem`` with the job ID."""
    await client.submit(job, job_id=job_id)
    print_err(f"job {job_id}", dim=True)
    raise Problem(
        f"job {job_id} is submitted, but this user may not read its reply: {error}",
        hint=f"run `berlin tail {job_id}` as a user that may (deploy/redis/users.acl), and "
        "submit with --no-wait",
    )


def known_as(status: str) -> str:
    """Return the notice for a job that was submitted before, ``""`` for a new one."""
    return "" if status == "unknown" else f" was submitted before, and is {status}"
