"""Sources of a shared token: two sources on two connections stand for two processes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
import redis
import redis.asyncio

from berlin_worker.settings import Settings
from berlin_worker.storage.shared_tokens import RedisSource, RedisTokens
from tests.support.shared_tokens import ACCOUNT, PASSWORD, SETTINGS, MakeSource


@pytest.fixture(autouse=True)
def every_key_has_a_ttl(redis_url: str) -> Iterator[None]:
    """Check after each test that all keys are under ``token:``, and expire."""
    yield
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter():
            assert key.startswith(b"token:")
            assert client.pttl(key) > 0, key


@pytest.fixture
async def process(redis_url: str) -> AsyncIterator[MakeSource]:
    """Make the source of one more process, with a connection pool of its own."""
    async with AsyncExitStack() as stack:

        def make(
            login: Callable[[], Awaitable[str]],
            settings: Settings = SETTINGS,
            password: str = PASSWORD,
            **options: object,
        ) -> RedisSource:
            client = redis.asyncio.Redis.from_url(redis_url, **options)
            stack.push_async_callback(client.aclose)
            return RedisTokens(client, settings).source("berlin", ACCOUNT, login, password=password)

        yield make
