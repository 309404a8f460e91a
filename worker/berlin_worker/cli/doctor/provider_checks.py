"""Checks of the providers: can a worker with these settings build them and log in?"""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from berlin_worker.cli.doctor import checks
from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.cli.worker import check_providers
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from berlin_worker.providers.base import Provider

_Result = TypeVar("_Result")


def examine_providers(settings: Settings) -> Iterator[CheckResult]:
    """Check that a worker can build its providers; without any settings for them yield nothing."""
    from berlin_worker.providers.served import lacks_settings  # noqa: PLC0415  # imports providers

    try:
        if lacks_settings(settings, os.environ):
            return  # this machine may run no worker; the check of the login reports it
        names = asyncio.run(_with_providers(settings, _names_of))
    except (SettingsError, JobError) as error:
        yield checks.providers(str(error), ())
    except Exception as error:  # noqa: BLE001  # code of another package; its text may hold a secret
        yield checks.providers(f"a provider raises {type(error).__name__}", ())
    else:
        yield checks.providers(None, names)


async def _with_providers(
    settings: Settings, work: "Callable[[Mapping[str, Provider]], Awaitable[_Result]]"
) -> "_Result":
    """Build the providers that a worker builds at its start, and pass them to ``work``, by name.

    Raises the errors that end the start of a worker.
    """
    # Imports of 0.5 s, after the checks of Redis have been shown.
    from berlin_worker.providers.base import Services  # noqa: PLC0415  # slow to import
    from berlin_worker.providers.http import open_session  # noqa: PLC0415  # slow to import
    from berlin_worker.providers.served import (  # noqa: PLC0415  # slow to import
        configured_providers,
        provider_cache,
    )
    from berlin_worker.storage.connections import connect  # noqa: PLC0415  # slow to import
    from berlin_worker.storage.shared_tokens import RedisTokens  # noqa: PLC0415  # slow to import
    from berlin_worker.telemetry.stats import Stats  # noqa: PLC0415  # slow to import

    async with open_session(settings) as session, connect(settings.redis_url) as redis:
        tokens = RedisTokens(redis, settings, Stats(settings.metrics_named_models))
        provider = provider_cache(Services(session, tokens, settings, os.environ), settings)
        names = sorted(configured_providers(settings, os.environ))
        return await work({name: provider(name) for name in names})


async def _names_of(providers: "Mapping[str, Provider]") -> frozenset[str]:
    return frozenset(providers)


def examine_logins(settings: Settings) -> Iterator[CheckResult]:
    """Check the login of each provider that has one."""
    from berlin_worker.providers.served import (  # noqa: PLC0415  # imports providers
        lacks_settings,
        server_url,
    )

    try:
        check_providers(settings)
        tried = asyncio.run(_with_providers(settings, _try_logins))
    except (SettingsError, JobError) as error:
        message = str(error)
    else:
        for name, failure in tried.items():
            yield checks.login(failure, server_url(name, settings, os.environ) or name)
        if not tried:
            yield CheckResult("login", "ok", "not needed: workers serve other providers")
        return
    with contextlib.suppress(SettingsError):
        if lacks_settings(settings, os.environ):
            yield CheckResult(
                "login", "warn", "credentials are missing", f"for a worker, {message}"
            )
            return
    yield CheckResult("login", "fail", message, "correct the setting")


async def _try_logins(providers: "Mapping[str, Provider]") -> dict[str, JobError | None]:
    """Return the error of each provider's login, ``None`` if it was taken."""
    tried: dict[str, JobError | None] = {}
    for name, provider in providers.items():
        if check_login := getattr(provider, "check_login", None):
            try:
                await check_login()
            except JobError as error:
                tried[name] = error
            else:
                tried[name] = None
    return tried
