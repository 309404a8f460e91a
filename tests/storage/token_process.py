"""A process of the fleet in ``test_shared_tokens_fleet.py``: many callers of one shared token.

Its arguments are the Redis URL, the login URL and the settings (JSON). It takes a command
from each line of its input (JSON) and answers each with one line:

    {"do": "get", "callers": 50}       all callers ask at once
    {"do": "refused", "callers": 50}   all have got a 401 with the token that they hold
    {"do": "hammer", "callers": 50}    all ask again and again, whatever the result; no answer
    {"do": "stop"}                     the callers of "hammer" stop; the answer is their results

The answer is ``{"tokens": [...], "errors": {code: count}}``, without duplicates.
"""

import asyncio
import json
import os
import sys
from collections import Counter

import aiohttp
import redis.asyncio

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Token, TokenSource
from berlin_worker.settings import Settings
from berlin_worker.storage.shared_tokens import RedisTokens


class Callers:
    """The tokens and errors that the callers received."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._held: Token | None = None
        self._tokens: set[str] = set()
        self._errors: Counter[str] = Counter()

    async def get(self) -> None:
        try:
            self._held = await self._source.get()
            self._tokens.add(self._held.value)
        except JobError as error:
            self._errors[error.code] += 1

    async def refused(self) -> None:
        assert self._held is not None
        await self._source.invalidate(self._held)
        await self.get()

    async def hammer(self) -> None:
        while True:
            await self.get()
            await asyncio.sleep(0)

    def results(self) -> str:
        result = {"tokens": sorted(self._tokens), "errors": dict(self._errors)}
        self._tokens.clear()
        self._errors.clear()
        return json.dumps(result)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main(redis_url: str, login_url: str, settings: str) -> None:
    async with aiohttp.ClientSession() as http, redis.asyncio.Redis.from_url(redis_url) as client:

        async def login() -> str:
            async with http.post(login_url, json={"pid": os.getpid()}) as reply:
                if reply.status != 200:
                    raise JobError(ErrorCode.AUTH_FAILED, "refused", upstream_status=reply.status)
                return (await reply.json())["token"]

        store = RedisTokens(client, Settings.model_validate_json(settings))
        callers = Callers(store.source("berlin", "someone", login, password="wrong or right"))
        hammering: list[asyncio.Task[None]] = []
        say("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            match command["do"]:
                case "get":
                    await asyncio.gather(*(callers.get() for _ in range(command["callers"])))
                case "refused":
                    held = [callers.refused() for _ in range(command["callers"])]
                    await asyncio.gather(*held)
                case "hammer":
                    jobs = [callers.hammer() for _ in range(command["callers"])]
                    hammering = [asyncio.create_task(job) for job in jobs]
                    continue
                case "stop":
                    for task in hammering:
                        task.cancel()
                    await asyncio.gather(*hammering, return_exceptions=True)
            say(callers.results())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
