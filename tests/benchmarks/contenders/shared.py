"""Code that all contenders share: the call to the upstream, the events, the producer.

Runs in each contender's own environment, so it needs aiohttp at most.
"""

import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

REDIS_URL = os.environ["REDIS_URL"]
STREAMS = int(os.environ["BENCH_STREAMS"])
COMPLETIONS = os.environ["BERLIN_URL"] + "/api/chat/completions"
HEADERS = {"token": "a-token"}  # contenders do not log in: the upstream accepts any token


def body(prompt: str) -> dict[str, Any]:
    """Return the body of a completion."""
    options = {"model": "gpt-3.5-turbo", "temperature": 0, "max_tokens": 1888}
    return {"prompt": prompt, "parentMessageId": str(uuid.uuid4()), "options": options}


async def deltas(session: Any, prompt: str) -> AsyncIterator[str]:
    """Yield the deltas of one completion over an ``aiohttp.ClientSession``."""
    async with session.post(COMPLETIONS, json=body(prompt), headers=HEADERS) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.strip():
                yield json.loads(line)["content"]


def chunk(job_id: str, content: str) -> str:
    """Return a chunk event."""
    return json.dumps({"job_id": job_id, "type": "chunk", "content": content})


def completed(job_id: str) -> str:
    """Return the event that ends a job."""
    return json.dumps({"job_id": job_id, "type": "completed"})


def orders() -> Iterator[tuple[str, str]]:
    """Yield ``(job ID, prompt)`` of each job to enqueue: one JSON object a line of the input."""
    for line in sys.stdin:
        order = json.loads(line)
        yield order["job_id"], order["prompt"]


async def produce(enqueue: Callable[[str, str], Awaitable[Any]]) -> None:
    """Enqueue each order as it comes. Reading blocks the loop, which has nothing else to do."""
    for job_id, prompt in orders():
        await enqueue(job_id, prompt)
