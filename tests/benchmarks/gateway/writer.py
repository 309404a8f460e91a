"""Writes the events of many jobs at a pace, as workers do: to the log and to the channel.

Run as a script, with the port of Redis, the number of jobs, the chunks of each and the pace (ms).
It prints ``ready`` once each job has begun, and waits for a line on stdin before the chunks.
The text of a chunk opens with the time of its sending (ns of the monotonic clock) and its index.
"""

import asyncio
import sys
import time
from typing import Any

import redis.asyncio
import uvloop

from berlin_schemas import Completed, Started, Timings, names
from berlin_worker.jobs.job_log import Batch, JobLog
from tests.benchmarks.subscriber import say

_SLOTS = 20
"""The jobs do not write all at once, but in so many groups over the pace."""
_TIMINGS = Timings(queue_ms=1, login_ms=0, first_chunk_ms=2, stream_ms=3, total_ms=6)
_TTL_S = 3600


class Queue:
    """The part of a journal that a log uses; it takes the bytes at once."""

    full = False

    def added(self, log: JobLog, size: int, *, first: bool) -> None:
        """Take no notice."""

    def forget(self, batch: Batch) -> None:
        """Take no notice."""

    async def wait_for_room(self) -> None:
        """Return at once."""


async def append(client: redis.asyncio.Redis, logs: list[JobLog], status: str) -> None:
    """Append what the logs of several jobs hold; with a ``status`` their records follow."""
    async with client.pipeline(transaction=False) as pipeline:
        for log in logs:
            batch, key = log.take(), names.log_key(log.job_id)
            for seq, data in enumerate(batch.events, batch.first_seq):
                pipeline.xadd(key, {"event": data}, id=f"{seq}-0")
                pipeline.publish(names.channel(log.job_id), data)
            if status:
                state = names.state_key(log.job_id)
                pipeline.hset(state, mapping={"status": status, "seq": log.seq, "attempt": 1})
                pipeline.expire(state, _TTL_S)
                pipeline.expire(key, _TTL_S)
        await pipeline.execute()


async def main(port: int, jobs: int, chunks: int, every_ms: int) -> None:
    """Write all jobs."""
    async with redis.asyncio.Redis(port=port) as client:
        logs = [
            JobLog(Queue(), f"j{n}", 1, owner="w/1", seq=0, chunks=0, on_fenced=lambda: None)
            for n in range(jobs)
        ]
        slots = [logs[n::_SLOTS] for n in range(min(_SLOTS, jobs))]
        for slot in slots:
            for log in slot:
                log.event(Started(job_id=log.job_id, seq=log.next_seq, attempt=1, ts=time.time()))
            await append(client, slot, "running")
        say(ready=True)
        await asyncio.to_thread(sys.stdin.readline)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for index in range(chunks):
            for number, slot in enumerate(slots):
                at = begun + (index + number / len(slots)) * every_ms / 1000
                await asyncio.sleep(max(at - loop.time(), 0))
                text = f"{time.monotonic_ns()} {index} lorem ipsum lorem ipsum"
                for log in slot:
                    log.chunk([text])
                await append(client, slot, "")
        for slot in slots:
            for log in slot:
                head: Any = {"job_id": log.job_id, "seq": log.next_seq, "attempt": 1, "ts": 1.0}
                log.event(Completed(**head, finish_reason="stop", timings=_TIMINGS))
            await append(client, slot, "completed")
        say(written=True)


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
