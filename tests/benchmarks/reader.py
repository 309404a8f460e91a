"""One process that follows every job by the client of this project, as a web server would.

Run as a script, with the number of jobs: ``ready`` once it follows ``j0`` to ``j<n-1>``, and at
the end ``reader`` with what it has read and what that cost.
"""

import asyncio
import json
import sys
import time

import uvloop

from berlin_schemas import Chunk, Completed
from berlin_worker.client import AsyncClient


async def follow(client: AsyncClient, job_id: str) -> tuple[int, bool]:
    """Return the number of chunks, and whether each came once, in order, up to ``completed``."""
    chunks, sound, completed = 0, True, False
    async for event in client.stream(job_id):
        if isinstance(event, Chunk):
            # The upstream counts its chunks in their text.
            sound = sound and int(event.content.split()[1]) == chunks
            chunks += 1
        completed = isinstance(event, Completed)
    return chunks, sound and completed


async def main(jobs: int) -> None:
    """Follow all of them at once."""
    async with AsyncClient() as client:
        followers = [asyncio.create_task(follow(client, f"j{n}")) for n in range(jobs)]
        await asyncio.sleep(0)
        begun_s = time.process_time()
        print(json.dumps({"ready": True}), flush=True)
        read = await asyncio.gather(*followers)
        chunks = sum(count for count, _ in read)
        spent_s = time.process_time() - begun_s
    detail = {
        "chunks": chunks,
        "unsound": sum(not sound for _, sound in read),
        "cpu_us_a_chunk": spent_s / max(chunks, 1) * 1e6,
    }
    print(json.dumps({"reader": detail}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
