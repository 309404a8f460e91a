"""Fixtures of the tests that run jobs over a store."""

from collections.abc import AsyncIterator, Callable

import pytest
import redis.asyncio

from tests.support.harness import ScriptedProvider, Stream, Worker
from tests.support.store_helpers import check_keys


@pytest.fixture
async def checked_redis(redis_client: redis.asyncio.Redis) -> AsyncIterator[redis.asyncio.Redis]:
    """The client of the store; after the test :func:`check_keys` examines every key."""
    yield redis_client
    await check_keys(redis_client)


@pytest.fixture
def worker(checked_redis: redis.asyncio.Redis) -> Callable[..., Worker]:
    """A factory of workers over one Redis: ``worker(*scripts, **changes)``."""

    def make(*scripts: Stream, **changes: object) -> Worker:
        return Worker(checked_redis, ScriptedProvider(*scripts), **changes)

    return make
