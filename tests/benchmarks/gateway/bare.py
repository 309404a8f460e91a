"""The floor: an aiohttp handler that copies one redis-py subscription into each response.

It gives no guarantee: no log, no cursor, no order, no bound. Prints its port.
"""

import asyncio
import sys

import redis.asyncio
import uvloop
from aiohttp import web

from berlin_schemas import names

_REDIS = web.AppKey("redis", redis.asyncio.Redis)


async def follow(request: web.Request) -> web.StreamResponse:
    """Copy what is published until an event that ends the job."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    async with request.app[_REDIS].pubsub() as subscription:
        await subscription.subscribe(names.channel(request.match_info["job_id"]))
        await response.prepare(request)
        await response.write(b": subscribed\n\n")
        async for message in subscription.listen():
            if message["type"] == "message":
                await response.write(b"data: %b\n\n" % message["data"])
                if b'"type":"completed"' in message["data"]:
                    break
    return response


async def main(url: str) -> None:
    """Serve until the process is ended."""
    app = web.Application()
    app[_REDIS] = redis.asyncio.Redis.from_url(url, max_connections=20_000)
    app.router.add_get("/v1/jobs/{job_id}/events", follow)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
