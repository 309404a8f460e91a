"""Follow, cancel and show jobs."""

import asyncio
import dataclasses
import json
import time

import click

from berlin_schemas import Completed, Event, Failed
from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.cli.errors import FAILED, Problem
from berlin_worker.cli.follow import CANCEL_PATIENCE_S, follow
from berlin_worker.cli.output import printable, say, show
from berlin_worker.cli.reach import open_client
from berlin_worker.client import AsyncClient, JobStatus
from berlin_worker.errors import CursorExpired


async def tail(job_id: str, after: int, wait_s: float, *, as_json: bool, final: bool) -> int:
    """Follow a job; returns the exit code."""
    async with open_client() as client:
        await client.status(job_id)  # a Redis that is not there shows at once
        stream = client.stream(job_id, after, wait_for_start_s=wait_s)
        return await follow(client, stream, after=after, as_json=as_json, final=final, cancel=False)


async def cancel(job_id: str, *, wait: bool) -> int:
    """Cancel a job; returns the exit code."""
    async with open_client() as client:
        before = await client.status(job_id)
        if before.status in TERMINAL_TYPES:
            click.echo(f"job {job_id} is over already: {before.status}")
            return 0
        await client.cancel(job_id)
        if before.status == "unknown":
            raise Problem(
                f"job {job_id} is not known here: it never was, or its record has expired. If "
                "another producer has put it on the queue, it ends when a worker takes it",
            )
        try:
            async with asyncio.timeout(CANCEL_PATIENCE_S if wait else 0):
                end = await _last_event(client, job_id, before.seq)
        except TimeoutError:
            click.echo(f"job {job_id} is marked as cancelled: it ends when a worker sees it")
        else:
            click.echo(f"job {job_id} is over: {end.type if end else 'its log has expired'}")
        return 0


async def status(job_id: str, *, as_json: bool) -> int:
    """Print the status of a job; returns the exit code."""
    async with open_client() as client:
        found = await client.status(job_id)
        end = None
        if found.status in TERMINAL_TYPES:
            end = await _last_event(client, job_id, found.seq - 1)
    if as_json:
        told = dataclasses.asdict(found)
        told["end"] = end.model_dump(mode="json") if end else None
        click.echo(json.dumps(told))
    elif found.status != "unknown":
        _print_table(status_rows(found, end, time.time()))
    if found.status == "unknown":
        say(f"berlin: job {job_id} is not known: no record of it, or it has expired", fg="red")
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
    """What `berlin status` shows, as names and values (pure)."""
    rows = [("job", found.job_id), ("status", found.status)]
    if found.cancel_requested and found.status not in TERMINAL_TYPES:
        rows.append(("cancel", "asked for"))
    if found.attempt:
        rows.append(("attempt", str(found.attempt)))
    if found.seq:
        rows.append(("events", str(found.seq)))
    if found.created_ts:
        rows.append(("submitted", f"{_ago(now_ts - found.created_ts)} ago"))
    if found.created_ts and found.started_ts:
        rows.append(("in queue", f"{max(found.started_ts - found.created_ts, 0):.2f} s"))
    match end:
        case Completed():
            rows.append(("finished", end.finish_reason))
            rows.append(("took", f"{end.timings.total_ms / 1000:.2f} s"))
        case Failed(error=error):
            rows.append(("error", f"{error.code}: {error.message}"))
    return rows


def _ago(seconds: float) -> str:
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{max(seconds, 0):.1f} s"


def _print_table(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        show(f"{click.style(name.ljust(width), dim=True)}  {printable(value)}")
