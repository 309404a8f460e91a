"""The stand-in upstream and Berlin providers that are connected to it."""

from collections.abc import AsyncIterator

import pytest

from berlin_worker.embedded.upstream import Upstream
from berlin_worker.providers.berlin.provider import BerlinProvider
from tests.support.berlin_provider import REPLY, SECRET_ACCOUNT, SECRET_PASSWORD, Make
from tests.support.providers import provider_factory


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(account=SECRET_ACCOUNT, password=SECRET_PASSWORD, reply=REPLY) as server:
        yield server


@pytest.fixture
async def make(upstream: Upstream) -> AsyncIterator[Make]:
    """Builds providers for the upstream; keyword arguments are further settings."""
    async with provider_factory(BerlinProvider, upstream.environ) as build:
        yield build


@pytest.fixture
async def berlin(make: Make) -> BerlinProvider:
    return make()
