"""Writes the events of many jobs at a pace, as workers do: to the log and to the channel.

Run as a script, with the port of Redis, the number of jobs, the chunks of each and the pace (ms).
It prints ``ready`` once each job has begun, and waits for a line on stdin before the chunks.
The text of a chunk opens with the time of its sending (ns of the monotonic clock) and its index.
"""

import asyncio
import sys
import time

import redis.asyncio
import uvloop

from berlin_schemas import Chunk, Completed, Event, Started, Timings, encode, names
from tests.benchmarks.subscriber import say

_SLOTS = 20
"""The jobs do not write all at once, but in so many groups over the pace."""
_TIMINGS = Timings(queue_ms=1, login_ms=0, first_chunk_ms=2, stream_ms=3, total_ms=6)
_TTL_S = 3600


async def append(client: redis.asyncio.Redis, events: list[Event], status: str) -> None:
    """Append one event to each of several jobs."""
    async with client.pipeline(transaction=False) as pipeline:
        for event in events:
            data, job_id = encode(event), event.job_id
            pipeline.xadd(names.log_key(job_id), {"event": data}, id=f"{event.seq}-0")
            pipeline.publish(names.channel(job_id), data)
            if event.type != "chunk":
                state = names.state_key(job_id)
                pipeline.hset(state, mapping={"status": status, "seq": event.seq, "attempt": 1})
                pipeline.expire(state, _TTL_S)
                pipeline.expire(names.log_key(job_id), _TTL_S)
        await pipeline.execute()


async def main(port: int, jobs: int, chunks: int, every_ms: int) -> None:
    """Write all jobs."""
    async with redis.asyncio.Redis(port=port) as client:
        ids = [f"j{n}" for n in range(jobs)]
        slots = [ids[n::_SLOTS] for n in range(min(_SLOTS, jobs))]

        def head(job_id: str, seq: int) -> dict[str, object]:
            return {"job_id": job_id, "seq": seq, "attempt": 1, "ts": time.time()}

        for slot in slots:
            await append(
                client, [Started.model_validate(head(each, 1)) for each in slot], "running"
            )
        say(ready=True)
        await asyncio.to_thread(sys.stdin.readline)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for index in range(chunks):
            for number, slot in enumerate(slots):
                at = begun + (index + number / len(slots)) * every_ms / 1000
                await asyncio.sleep(max(at - loop.time(), 0))
                text = f"{time.monotonic_ns()} {index} " + "lorem ipsum " * 2
                made: list[Event] = [
                    Chunk.model_validate(head(each, index + 2) | {"content": text}) for each in slot
                ]
                await append(client, made, "running")
        for slot in slots:
            end = {"finish_reason": "stop", "timings": _TIMINGS}
            await append(
                client,
                [Completed.model_validate(head(each, chunks + 2) | end) for each in slot],
                "completed",
            )
        say(written=True)


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
