"""Fixtures of the job store's tests: a store on four servers, and one that loses replies."""

import pytest

from tests.support.store_helpers import check_keys, load_scripts, loses_replies, make_store


@pytest.fixture(params=["fake", "real", "second", "cluster"])
def redis_url(request):
    url: str = request.getfixturevalue(f"{request.param}_redis_url")
    return url


@pytest.fixture(autouse=True)
async def keys(redis_client):
    await load_scripts(redis_client)
    yield
    await check_keys(redis_client)


@pytest.fixture
def store(redis_client):
    return make_store(redis_client)


@pytest.fixture
async def lossy(redis_url):
    async with loses_replies(redis_url) as client:
        await client.ping()
        yield client
