"""OpenAI's own SDK over aiohttp: the cost of its reading of a stream, without any guarantee.

Like the floor it is one asyncio process, a PUBLISH packed by hand for each chunk, no queue, no log.
"""

import asyncio
import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import uvloop
from floor import Redis, publish
from openai import AsyncOpenAI, DefaultAioHttpClient
from shared import REDIS_URL, chunk, completed


async def stream(client: AsyncOpenAI, redis: asyncio.Transport, job_id: str, prompt: str) -> None:
    """Stream one job."""
    messages: Any = [{"role": "user", "content": prompt}]
    answer = await client.chat.completions.create(
        model="gpt-4o-mini",
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for part in answer:
        if part.choices and (content := part.choices[0].delta.content):
            redis.write(publish(job_id, chunk(job_id, content)))
    redis.write(publish(job_id, completed(job_id)))


async def main() -> None:
    """Run each job that the standard input brings."""
    loop = asyncio.get_running_loop()
    address = urlsplit(REDIS_URL)
    _, redis = await loop.create_connection(Redis, address.hostname, address.port)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with DefaultAioHttpClient() as http:
        client = AsyncOpenAI(
            base_url=os.environ["OPENAI_BASE_URL"], api_key="none", max_retries=0, http_client=http
        )
        running = set()
        async for line in reader:
            order = json.loads(line)
            task = loop.create_task(
                stream(client, redis.transport, order["job_id"], order["prompt"])
            )
            running.add(task)
            task.add_done_callback(running.discard)


if __name__ == "__main__":
    uvloop.run(main())
