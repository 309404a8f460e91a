"""The stand-in of an OpenAI-compatible server and providers that are connected to it."""

from collections.abc import AsyncIterator

import pytest

from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.providers.openai import OpenAIProvider
from tests.support.openai_provider import KEY, REPLY, Make
from tests.support.providers import provider_factory


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIUpstream]:
    async with OpenAIUpstream(key=KEY, reply=REPLY) as server:
        yield server


@pytest.fixture
async def make(upstream: OpenAIUpstream) -> AsyncIterator[Make]:
    """Builds providers for the upstream; keyword arguments are further settings."""
    async with provider_factory(OpenAIProvider, upstream.environ) as build:
        yield build


@pytest.fixture
async def provider(make: Make) -> OpenAIProvider:
    return make()
