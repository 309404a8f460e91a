"""dramatiq with its asyncio middleware: a thread of the worker waits for each coroutine."""

import aiohttp
import dramatiq
import redis.asyncio
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.asyncio import AsyncIO
from shared import REDIS_URL, chunk, completed, deltas, orders

broker = RedisBroker(url=REDIS_URL)
broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)

client = redis.asyncio.Redis.from_pool(
    redis.asyncio.BlockingConnectionPool.from_url(REDIS_URL, max_connections=50, timeout=None)
)
session: aiohttp.ClientSession | None = None


def shared_session() -> aiohttp.ClientSession:
    """Return the session of all jobs, which the first one opens: it belongs to the loop."""
    global session  # noqa: PLW0603  # a worker process has one
    if session is None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        session = aiohttp.ClientSession(connector=connector, timeout=timeout)
    return session


@dramatiq.actor
async def generate(job_id: str, prompt: str) -> None:
    """Run one job."""
    async for delta in deltas(shared_session(), prompt):
        await client.publish(f"job:{job_id}", chunk(job_id, delta))
    await client.publish(f"job:{job_id}", completed(job_id))


if __name__ == "__main__":
    for order in orders():
        generate.send(*order)
