"""The stand-in of an OpenAI-compatible server and providers that are connected to it."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.providers.base import Services
from berlin_worker.providers.http import open_session
from berlin_worker.providers.openai import OpenAIProvider
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings
from tests.support.openai_provider import KEY, REPLY, Make

if TYPE_CHECKING:
    import aiohttp


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIUpstream]:
    async with OpenAIUpstream(key=KEY, reply=REPLY) as server:
        yield server


@pytest.fixture
async def make(upstream: OpenAIUpstream) -> AsyncIterator[Make]:
    """Builds providers for the upstream; keyword arguments are further settings."""
    sessions: list[aiohttp.ClientSession] = []

    def build(**environ: str) -> OpenAIProvider:
        environ = {**upstream.environ, **environ}
        settings = Settings.from_env(environ)
        sessions.append(open_session(settings))
        return OpenAIProvider(Services(sessions[-1], LocalTokens(), settings, environ))

    yield build
    for session in sessions:
        await session.close()


@pytest.fixture
async def provider(make: Make) -> OpenAIProvider:
    return make()
