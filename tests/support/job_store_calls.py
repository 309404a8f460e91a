"""Calls of the job store as its tests make them: a claim, a submission, a batch of events."""

import itertools

from berlin_schemas import Completed, Timings, names
from berlin_worker.storage.job_index import submissions
from berlin_worker.storage.scripts import source
from tests.support.store_helpers import JOB, event

ID = "job-1"
_call = itertools.count()
TIMINGS = Timings(queue_ms=0, login_ms=0, first_chunk_ms=None, stream_ms=0, total_ms=0)


async def claim(store, job=JOB, *, job_id=ID, call=None, **how):
    call = call or f"call-{next(_call)}"
    return await store.claim(job_id, job, call=call, deadline_s=50.0, **how)


async def submit(client, job_id=ID, *, again_ms=30_000):
    script = client.register_script(source("submit"))
    for part in submissions([job_id], again_ms, 1000):
        await client.eval(part.script, len(part.keys), *part.keys, *part.args)
    return await script([names.state_key(job_id)], [JOB, 1000, again_ms])


async def append(store, log):
    [taken] = await store.append([log.take()])
    return taken


def completed(log):
    return event(log, Completed, finish_reason="stop", timings=TIMINGS)


def ended(log):
    """Add a terminal event to ``log`` and return ``log``; no caller waits for the event."""
    log.event(completed(log))
    return log
