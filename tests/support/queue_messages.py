"""The messages that a submission leaves on a Redis queue."""

import base64
import json

import redis.asyncio

from berlin_schemas import names


async def queue(client: redis.asyncio.Redis) -> list[dict]:
    """Return the messages on the queue, oldest first, each with its decoded ``args``."""
    messages = [json.loads(data) for data in await client.lrange(names.QUEUE, 0, -1)]
    for message in messages:
        message["args"] = json.loads(base64.b64decode(message["body"]))[0]
    return messages[::-1]


async def keys_left(client: redis.asyncio.Redis) -> set[bytes]:
    return {key async for key in client.scan_iter()}
