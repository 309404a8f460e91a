"""arq. Its worker runs on the loop of the policy, here uvloop's."""

import asyncio
from typing import Any

import aiohttp
import arq
import redis.asyncio
import uvloop
from arq.connections import RedisSettings
from shared import REDIS_URL, STREAMS, chunk, completed, deltas, produce

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
logging = {"version": 1}  # as quiet as the others: by itself it logs each job


async def generate(ctx: dict[str, Any], job_id: str, prompt: str) -> None:
    """Run one job."""
    async for delta in deltas(ctx["session"], prompt):
        await ctx["events"].publish(f"job:{job_id}", chunk(job_id, delta))
    await ctx["events"].publish(f"job:{job_id}", completed(job_id))


async def startup(ctx: dict[str, Any]) -> None:
    """Open one session and one pool for all jobs."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    ctx["session"] = aiohttp.ClientSession(connector=connector, timeout=timeout)
    ctx["events"] = redis.asyncio.Redis(
        connection_pool=redis.asyncio.BlockingConnectionPool.from_url(
            REDIS_URL, max_connections=50, timeout=None
        )
    )


async def shutdown(ctx: dict[str, Any]) -> None:
    """Close them."""
    await ctx["session"].close()
    await ctx["events"].aclose()


class Worker:
    """The settings of the worker."""

    functions = (generate,)
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = RedisSettings.from_dsn(REDIS_URL)
    max_jobs = STREAMS
    job_timeout = 600
    keep_result = 0
    poll_delay = 0.05  # it polls: the default of 0.5 s is far from live


async def main() -> None:
    """Run the producer."""
    pool = await arq.create_pool(RedisSettings.from_dsn(REDIS_URL))
    await produce(
        lambda job_id, prompt: pool.enqueue_job("generate", job_id, prompt, _job_id=job_id)
    )


if __name__ == "__main__":
    asyncio.run(main())
