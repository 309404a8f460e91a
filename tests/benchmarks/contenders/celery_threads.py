"""Celery's pool of threads: each waits for a coroutine in the one loop that they share."""

import asyncio
import threading

import aiohttp
import redis.asyncio
import uvloop
from celery import Celery
from celery.signals import worker_init
from shared import REDIS_URL, chunk, completed, deltas, orders

app = Celery("celery_threads", broker=REDIS_URL)
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1)

loop = uvloop.new_event_loop()
client = redis.asyncio.Redis.from_pool(
    redis.asyncio.BlockingConnectionPool.from_url(REDIS_URL, max_connections=50, timeout=None)
)
session: aiohttp.ClientSession


@worker_init.connect
def start_loop(**_: object) -> None:
    """Start the loop and open the session, before the first job."""
    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(open_session(), loop).result()


async def open_session() -> None:
    """Open one session for all jobs."""
    global session  # noqa: PLW0603  # a worker process has one
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    session = aiohttp.ClientSession(connector=connector, timeout=timeout)


async def stream(job_id: str, prompt: str) -> None:
    """Stream one job."""
    async for delta in deltas(session, prompt):
        await client.publish(f"job:{job_id}", chunk(job_id, delta))
    await client.publish(f"job:{job_id}", completed(job_id))


@app.task(name="stream")
def generate(job_id: str, prompt: str) -> None:
    """Run one job on the shared loop."""
    asyncio.run_coroutine_threadsafe(stream(job_id, prompt), loop).result()


if __name__ == "__main__":
    for order in orders():
        generate.delay(*order)
