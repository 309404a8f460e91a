"""Providers for tests, each with an HTTP session of its own."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar

from berlin_worker.providers.base import Services
from berlin_worker.providers.http import open_session
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings

P = TypeVar("P")


@contextlib.asynccontextmanager
async def provider_factory(
    make: Callable[[Services], P], environ: Mapping[str, str]
) -> AsyncIterator[Callable[..., P]]:
    """Yield a function that makes providers of ``environ`` and of its keyword arguments.

    All share one store of tokens. Their sessions close at the end.
    """
    tokens = LocalTokens()
    async with contextlib.AsyncExitStack() as stack:

        def build(**changes: str) -> P:
            changed = {**environ, **changes}
            settings = Settings.from_env(changed)
            session = open_session(settings)
            stack.push_async_callback(session.close)
            return make(Services(session, tokens, settings, changed))

        yield build
