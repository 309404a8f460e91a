"""The stand-in upstream and Berlin providers that are connected to it."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from berlin_worker.embedded.upstream import Upstream
from berlin_worker.providers.base import Services
from berlin_worker.providers.berlin.provider import BerlinProvider
from berlin_worker.providers.http import open_session
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings
from tests.support.berlin_provider import REPLY, SECRET_ACCOUNT, SECRET_PASSWORD, Make

if TYPE_CHECKING:
    import aiohttp


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(account=SECRET_ACCOUNT, password=SECRET_PASSWORD, reply=REPLY) as server:
        yield server


@pytest.fixture
async def make(upstream: Upstream) -> AsyncIterator[Make]:
    """Builds providers for the upstream; keyword arguments are further settings."""
    tokens = LocalTokens()
    sessions: list[aiohttp.ClientSession] = []

    def build(**environ: str) -> BerlinProvider:
        environ = {**upstream.environ, **environ}
        settings = Settings.from_env(environ)
        sessions.append(open_session(settings))
        return BerlinProvider(Services(sessions[-1], tokens, settings, environ))

    yield build
    for session in sessions:
        await session.close()


@pytest.fixture
async def berlin(make: Make) -> BerlinProvider:
    return make()
