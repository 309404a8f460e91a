"""A journal over a store that is a plain list."""

import asyncio

from berlin_schemas import Completed, ErrorCode, ErrorInfo, Failed, Started, Timings
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.store import Claim

JOB = "job-1"
TIMINGS = Timings(queue_ms=0, login_ms=0, first_chunk_ms=None, stream_ms=0, total_ms=0)


class MemoryStore:
    """Takes batches as Redis does; calls wait for ``gate``, then raise the next of ``failures``."""

    def __init__(self):
        self.calls = []
        self.events = {}
        self.refused = set()
        self.moving = set()
        self.put_off = 0
        self.failures = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def append(self, batch):
        self.calls.append(
            [(each.log.job_id, each.first_seq, list(each.events), each.ending) for each in batch]
        )
        self.asked.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        taken = []
        for each in batch:
            if each.log.job_id in self.moving:
                self.put_off += 1
                taken.append(None)
                continue
            fine = each.log.job_id not in self.refused
            taken.append(fine)
            if fine:
                log = self.events.setdefault(each.log.job_id, [])
                assert each.first_seq == len(log) + 1
                log.extend(each.events)
        return taken

    async def held_up(self):
        """Wait until a call hangs at the gate."""
        await self.asked.wait()
        self.asked.clear()


class Harness:
    """A journal with its writer, and the jobs that were fenced."""

    def __init__(self, limit=1 << 20, node_of=None, nodes=tuple):
        self.store = MemoryStore()
        self.journal = Journal(self.store, buffer_bytes=limit, node_of=node_of, nodes=nodes)
        self.fenced = []

    async def __aenter__(self):
        self.writer = asyncio.create_task(self.journal.run())
        return self

    async def __aexit__(self, *_):
        self.writer.cancel()
        await asyncio.wait({self.writer})

    def open(self, job_id=JOB, *, seq=0, chunks=0, attempt=1):
        claim = claimed(job_id, attempt=attempt, seq=seq, chunks=chunks)
        return self.journal.open(claim, on_fenced=lambda: self.fenced.append(job_id))

    def started(self, job_id=JOB, **place):
        log = self.open(job_id, **place)
        log.event(head(log, Started))
        return log


def claimed(job_id=JOB, *, attempt=1, seq=0, chunks=0):
    """Return a claim that has begun this attempt."""
    times = dict.fromkeys(("created_ms", "started_ms", "now_ms"), 0)
    return Claim(
        job_id,
        "claimed",
        attempt,
        owner=f"w/{attempt}",
        seq=seq,
        chunks=chunks,
        failed_attempts=0,
        cancel_reason="",
        **times,
    )


def head(log, kind, **fields):
    return kind(job_id=log.job_id, seq=log.next_seq, attempt=log.attempt, ts=1.0, **fields)


def completed(log, **fields):
    return head(log, Completed, finish_reason="stop", timings=TIMINGS, **fields)


def failed(log, message="it failed"):
    info = ErrorInfo(code=ErrorCode.INTERNAL, message=message, retryable=False)
    return head(log, Failed, error=info)
