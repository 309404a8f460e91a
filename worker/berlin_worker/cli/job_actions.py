"""Follow, cancel, show and list jobs."""

import asyncio
import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import click

from berlin_schemas import Completed, Event, Failed
from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.cli.errors import FAILED, Problem
from berlin_worker.cli.follow import CANCEL_PATIENCE_S, follow
from berlin_worker.cli.output import age, print_err, print_out, printable
from berlin_worker.cli.preflight import open_client
from berlin_worker.client import AsyncClient, JobStatus
from berlin_worker.errors import CursorExpired


async def tail(
    job_id: str, after: int, wait_s: float, *, as_json: bool, final: bool, reasoning: bool = False
) -> int:
    """Follow a job, and return the exit code."""
    async with open_client() as client:
        before = await client.status(job_id)  # a Redis that does not answer shows at once
        stream = client.stream(job_id, after, wait_for_start_s=wait_s)
        code = await follow(
            client,
            stream,
            after=after,
            as_json=as_json,
            final=final,
            cancel=False,
            status=before.status,
            reasoning=reasoning,
        )
        if code is not None:
            return code
        # No event follows ``after``: the record has the end of the job.
        found = await client.status(job_id)
        if text := ended_badly(found):
            print_err(printable(text), fg="red")
        return 0 if found.status == "completed" else FAILED


async def cancel(job_id: str, *, wait: bool) -> int:
    """Cancel a job, and return the exit code."""
    async with open_client() as client:
        before = await client.status(job_id)
        if before.status in TERMINAL_TYPES:
            click.echo(f"job {job_id} has ended already: {before.status}")
            return 0
        await client.cancel(job_id)
        if before.status == "unknown":
            raise Problem(
                f"job {job_id} is not known: it never existed, or its record has expired. If "
                "another producer has put it on the queue, it ends when a worker takes it",
            )
        try:
            async with asyncio.timeout(CANCEL_PATIENCE_S if wait else 0):
                end = await _last_event(client, job_id, before.seq)
        except TimeoutError:
            click.echo(
                f"job {job_id} is marked as cancelled, and ends when a worker takes note of it"
            )
        else:
            click.echo(f"job {job_id} has ended: {end.type if end else 'its log has expired'}")
        return 0


async def status(job_id: str, *, as_json: bool) -> int:
    """Print the status of a job, and return the exit code."""
    async with open_client() as client:
        found = await client.status(job_id)
        end = None
        if found.status in TERMINAL_TYPES:
            end = await _last_event(client, job_id, found.seq - 1)
    if as_json:
        fields = as_dict(found)
        fields["end"] = end.model_dump(mode="json") if end else None
        click.echo(json.dumps(fields))
    elif found.status != "unknown":
        _print_table(status_rows(found, end, time.time()))
    if found.status == "unknown":
        print_err(
            f"berlin: job {job_id} is not known: it never existed, or its record has expired",
            fg="red",
        )
        return FAILED
    return 0


async def _last_event(client: AsyncClient, job_id: str, after: int) -> Event | None:
    last = None
    try:
        async with client.stream(job_id, max(after, 0)) as stream:
            async for event in stream:
                last = event
    except CursorExpired:
        return None
    return last


def status_rows(found: JobStatus, end: Event | None, now_ts: float) -> list[tuple[str, str]]:
    """Return the rows of `berlin status` as names and values (pure)."""
    rows = [("job", found.job_id), ("status", found.status)]
    if found.cancel_requested and found.status not in TERMINAL_TYPES:
        rows.append(("cancel", "requested"))
    if found.attempt:
        rows.append(("attempt", str(found.attempt)))
    if found.seq:
        rows.append(("events", str(found.seq)))
    if found.created_ts:
        rows.append(("submitted", f"{age(now_ts - found.created_ts, decimals=1)} ago"))
    if found.created_ts and found.started_ts:
        rows.append(("in queue", f"{max(found.started_ts - found.created_ts, 0):.2f} s"))
    if isinstance(end, Completed):
        rows.append(("finished", end.finish_reason))
        rows.append(("took", f"{end.timings.total_ms / 1000:.2f} s"))
    error = end.error if isinstance(end, Failed) else found.error
    if error is not None:
        rows.append(("error", f"{error.code}: {error.message}"))
    if found.reason is not None:
        rows.append(("reason", found.reason))
    if found.tenant is not None:
        rows.append(("tenant", found.tenant))
    return rows


async def list_jobs(*, tenant: str | None, status: str | None, limit: int, as_json: bool) -> int:
    """Print the newest jobs that match, and return the exit code."""
    async with open_client() as client:
        found = await client.list(tenant=tenant, status=status, limit=limit)
    if as_json:
        for job in found:
            click.echo(json.dumps(as_dict(job)))
    else:
        for line in table(found, time.time()):
            print_out(line)
        if not found:
            print_err("no job matches")
    return 0


def as_dict(job: JobStatus) -> dict[str, Any]:
    """Return a status as a JSON object (pure)."""
    fields = {**dataclasses.asdict(job), "error": None}
    if job.error is not None:
        fields["error"] = job.error.model_dump(mode="json")
    return fields


def table(jobs: Sequence[JobStatus], now_ts: float) -> list[str]:
    """Return the lines of `berlin list`: ID, status, age, tenant, error or reason (pure)."""
    rows = [
        (
            job.job_id,
            job.status,
            "-" if job.created_ts is None else age(now_ts - job.created_ts, decimals=1),
            job.tenant or "-",
            " ".join((job.error.code if job.error else job.reason or "").split()),
        )
        for job in jobs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [printable("  ".join(map(str.ljust, row, widths))).rstrip() for row in rows]


def ended_badly(job: JobStatus) -> str | None:
    """Return one line for a job that failed or was cancelled, else ``None`` (pure)."""
    if job.status == "failed":
        why = f": {job.error.code}: {job.error.message}" if job.error else ""
        return f"berlin: the job has failed{why}"
    if job.status == "cancelled":
        return f"the job was cancelled ({job.reason})" if job.reason else "the job was cancelled"
    return None


def _print_table(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print_out(f"{click.style(name.ljust(width), dim=True)}  {printable(value)}")
