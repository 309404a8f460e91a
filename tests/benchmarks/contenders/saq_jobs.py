"""SAQ. Its worker runs on the loop of the policy, here uvloop's."""

import asyncio
from typing import Any

import aiohttp
import redis.asyncio
import uvloop
from saq import Queue
from shared import REDIS_URL, STREAMS, chunk, completed, deltas, produce

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
queue = Queue.from_url(REDIS_URL)


async def generate(ctx: dict[str, Any], *, job_id: str, prompt: str) -> None:
    """Run one job."""
    async for delta in deltas(ctx["session"], prompt):
        await ctx["events"].publish(f"job:{job_id}", chunk(job_id, delta))
    await ctx["events"].publish(f"job:{job_id}", completed(job_id))


async def startup(ctx: dict[str, Any]) -> None:
    """Open one session and one pool for all jobs."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    ctx["session"] = aiohttp.ClientSession(connector=connector, timeout=timeout)
    ctx["events"] = redis.asyncio.Redis.from_pool(
        redis.asyncio.BlockingConnectionPool.from_url(REDIS_URL, max_connections=50, timeout=None)
    )


async def shutdown(ctx: dict[str, Any]) -> None:
    """Close them."""
    await ctx["session"].close()
    await ctx["events"].aclose()


settings = {
    "queue": queue,
    "functions": [generate],
    "concurrency": STREAMS,
    "startup": startup,
    "shutdown": shutdown,
}


async def main() -> None:
    """Run the producer. By default a job has 10 s."""
    await queue.connect()
    await produce(
        lambda job_id, prompt: queue.enqueue("generate", job_id=job_id, prompt=prompt, timeout=600)
    )
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
