"""The floor: the cost of streaming without any guarantee.

One asyncio process. aiohttp reads lines, ``json.loads`` decodes them, a PUBLISH is packed by hand
and written without waiting. No queue (jobs come on the standard input), no log, no fence, no lease.
"""

import asyncio
import json
import sys
from typing import cast
from urllib.parse import urlsplit

import aiohttp
import uvloop
from shared import REDIS_URL, chunk, completed, deltas


def publish(job_id: str, event: str) -> bytes:
    """Return a PUBLISH as RESP."""
    channel, data = f"job:{job_id}".encode(), event.encode()
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        *(len(channel), channel),
        *(len(data), data),
    )


class Redis(asyncio.Protocol):
    """The connection to Redis; replies are dropped."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        pass


async def stream(
    session: aiohttp.ClientSession, redis: asyncio.Transport, job_id: str, prompt: str
) -> None:
    """Stream one job."""
    async for delta in deltas(session, prompt):
        redis.write(publish(job_id, chunk(job_id, delta)))
    redis.write(publish(job_id, completed(job_id)))


async def main() -> None:
    """Run each job that the standard input brings."""
    loop = asyncio.get_running_loop()
    address = urlsplit(REDIS_URL)
    _, redis = await loop.create_connection(Redis, address.hostname, address.port)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        running = set()
        async for line in reader:
            order = json.loads(line)
            task = loop.create_task(
                stream(session, redis.transport, order["job_id"], order["prompt"])
            )
            running.add(task)
            task.add_done_callback(running.discard)


if __name__ == "__main__":
    uvloop.run(main())
