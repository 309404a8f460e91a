"""Celery's own pool: a process for each stream, and in it ``asyncio.run`` for each job."""

import asyncio

import aiohttp
import redis.asyncio
from celery import Celery
from shared import REDIS_URL, chunk, completed, deltas, orders

app = Celery("celery_prefork", broker=REDIS_URL)
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1)


async def stream(job_id: str, prompt: str) -> None:
    """Run one job, with a session and a connection of its own: a loop ends with ``asyncio.run``."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        redis.asyncio.Redis.from_url(REDIS_URL) as client,
    ):
        async for delta in deltas(session, prompt):
            await client.publish(f"job:{job_id}", chunk(job_id, delta))
        await client.publish(f"job:{job_id}", completed(job_id))


@app.task(name="stream")
def generate(job_id: str, prompt: str) -> None:
    """Run one job in a loop of its own."""
    asyncio.run(stream(job_id, prompt))


if __name__ == "__main__":
    for order in orders():
        generate.delay(*order)
