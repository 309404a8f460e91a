"""taskiq with its Redis Streams broker, which acknowledges. It uses uvloop if that is installed."""

import asyncio

import aiohttp
import redis.asyncio
from shared import REDIS_URL, STREAMS, chunk, completed, deltas, produce
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(REDIS_URL)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(state: TaskiqState) -> None:
    """Open one session and one pool for all jobs."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    state.session = aiohttp.ClientSession(connector=connector, timeout=timeout)
    state.events = redis.asyncio.Redis.from_pool(
        redis.asyncio.BlockingConnectionPool.from_url(
            REDIS_URL, max_connections=min(STREAMS, 50), timeout=None
        )
    )


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def shutdown(state: TaskiqState) -> None:
    """Close them."""
    await state.session.close()
    await state.events.aclose()


@broker.task(task_name="generate")
async def generate(job_id: str, prompt: str) -> None:
    """The task."""
    async for delta in deltas(broker.state.session, prompt):
        await broker.state.events.publish(f"job:{job_id}", chunk(job_id, delta))
    await broker.state.events.publish(f"job:{job_id}", completed(job_id))


async def main() -> None:
    """Run the producer."""
    await broker.startup()
    await produce(generate.kiq)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
