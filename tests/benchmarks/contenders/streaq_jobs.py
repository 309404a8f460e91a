"""streaq, on uvloop, publishing over the worker's own client (coredis)."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import anyio
from shared import REDIS_URL, STREAMS, chunk, completed, deltas, produce
from streaq import Worker


@dataclass
class Context:
    """What all tasks share."""

    session: aiohttp.ClientSession


@asynccontextmanager
async def lifespan() -> AsyncGenerator[Context, None]:
    """Open one session for all tasks."""
    logging.getLogger("streaq").setLevel(logging.WARNING)  # by itself it logs each job
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Context(session)


worker = Worker(
    redis_url=REDIS_URL,
    concurrency=STREAMS,
    lifespan=lifespan,
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(ttl=0)
async def generate(job_id: str, prompt: str) -> None:
    """Run one job."""
    async for delta in deltas(worker.context.session, prompt):
        await worker.redis.publish(f"job:{job_id}", chunk(job_id, delta))
    await worker.redis.publish(f"job:{job_id}", completed(job_id))


async def main() -> None:
    """Run the producer."""
    async with worker:
        await produce(generate.enqueue)


if __name__ == "__main__":
    anyio.run(main)
