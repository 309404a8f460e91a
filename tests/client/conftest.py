"""Fixtures of the tests of the client."""

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from berlin_worker.client import AsyncClient, Options
from berlin_worker.settings import Settings
from tests.support.client_helpers import JOB, QUICK
from tests.support.job_writer import JobWriter


@pytest.fixture
def client_options() -> Options:
    """The options of :func:`client`: short waits. A test file may override this fixture."""
    return QUICK


@pytest.fixture
async def client(redis_url: str, client_options: Options) -> AsyncIterator[AsyncClient]:
    """An open client of the server under test."""
    async with AsyncClient(redis_url, settings=Settings(), options=client_options) as client:
        yield client


@pytest.fixture
def writer(redis_client: redis.asyncio.Redis) -> JobWriter:
    """A writer of the events of ``job-1``."""
    return JobWriter(redis_client, JOB)


@pytest.fixture
async def server(real_redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """An asyncio client of the real server, emptied before the test."""
    async with redis.asyncio.Redis.from_url(real_redis_url) as server:
        yield server
