"""Clients with short waits, and readers of the events of a job."""

import asyncio
from collections.abc import AsyncIterable
from typing import Any

import redis.asyncio

from berlin_schemas import Event, names
from berlin_worker.client import AsyncClient, Options
from berlin_worker.settings import Settings

JOB = "job-1"
QUICK = Options(submit_timeout_s=2, reread_after_s=0.2, wait_for_start_s=0.4)


def make_client(url: str, **options: Any) -> AsyncClient:
    """Return a client with default settings; ``options`` as of :class:`Options`."""
    return AsyncClient(url, settings=Settings(), options=Options(**options))


async def seqs(stream: AsyncIterable[Event]) -> list[int]:
    """Read ``stream`` to its end and return the sequence numbers."""
    return [event.seq async for event in stream]


async def next_message(pubsub: Any) -> dict[str, Any]:
    """Return the next message of redis-py's ``pubsub``; raises ``TimeoutError`` after 60 s."""
    async with asyncio.timeout(60):
        while (message := await pubsub.get_message(timeout=5)) is None:
            pass
    found: dict[str, Any] = message
    return found


async def wait_for_readers(
    client: redis.asyncio.Redis, count: int, job_id: str = JOB, *, timeout_s: float = 60.0
) -> None:
    """Return when the channel of a job has ``count`` subscribers; raises ``TimeoutError``."""
    channel = names.channel(job_id)
    async with asyncio.timeout(timeout_s):
        while [count] != [n for _, n in await client.pubsub_numsub(channel)]:  # noqa: ASYNC110  # the count is in Redis
            await asyncio.sleep(0.01)


async def wait_for_channels(client: redis.asyncio.Redis, count: int) -> None:
    """Return when ``count`` jobs have subscribers; raises ``TimeoutError`` after 60 s."""
    async with asyncio.timeout(60):
        while len(await client.pubsub_channels("job:*")) != count:  # noqa: ASYNC110  # the count is in Redis
            await asyncio.sleep(0.01)


async def open_connections(client: redis.asyncio.Redis) -> set[str]:
    """Return the IDs of the connections that a server holds open."""
    return {each["id"] for each in await client.client_list()}
