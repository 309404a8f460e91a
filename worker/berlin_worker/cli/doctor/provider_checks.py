"""Checks of the providers: can a worker with these settings build them and log in?"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING

from berlin_schemas import ErrorCode
from berlin_worker.cli.doctor import checks
from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.cli.worker import check_providers
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.settings import Settings

if TYPE_CHECKING:
    from berlin_worker.providers.base import Provider


def examine(settings: Settings, *, login: bool) -> Iterator[CheckResult]:
    """Check that a worker can build its providers and, with ``login``, that each can log in.

    A machine without any settings for providers may run no worker: then only the login is checked.
    """
    from berlin_worker.providers.served import lacks_settings  # noqa: PLC0415  # imports providers

    lacking, failure = False, ""
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        try:
            lacking = lacks_settings(settings, os.environ)
            check_providers(settings)
            opened = _open(settings)
            providers = runner.run(opened.__aenter__())
            stack.callback(lambda: runner.run(opened.__aexit__(None, None, None)))
        except (SettingsError, JobError) as error:
            failure = str(error)
        except Exception as error:  # noqa: BLE001  # code of another package; its text may hold a secret
            failure = f"a provider raises {type(error).__name__}"
        if failure:
            yield from _failed(failure, lacking=lacking, login=login)
            return
        if not lacking:
            yield checks.providers(None, providers)
        if login:
            yield from _examine_logins(runner.run(_try_logins(providers)), settings)


@contextlib.asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator["Mapping[str, Provider]"]:
    """Build the providers that a worker builds at its start, by name.

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
        yield {name: provider(name) for name in names}


def _failed(failure: str, *, lacking: bool, login: bool) -> Iterator[CheckResult]:
    """Yield the results if the providers cannot be built, for the reason ``failure``."""
    if not lacking:
        yield checks.providers(failure, ())
    if login and lacking:
        hint = f"for a worker, {failure}"
        yield CheckResult("login", "warn", "credentials are missing", hint)
    elif login:
        yield CheckResult("login", "fail", failure, "correct the setting")


def _examine_logins(
    tried: Mapping[str, JobError | None], settings: Settings
) -> Iterator[CheckResult]:
    from berlin_worker.providers.served import server_url  # noqa: PLC0415  # imports providers

    for name, failure in tried.items():
        yield checks.login(failure, server_url(name, settings, os.environ) or name)
    if not tried:
        yield CheckResult("login", "ok", "not needed: workers serve other providers")


async def _try_logins(providers: "Mapping[str, Provider]") -> dict[str, JobError | None]:
    """Return the error of each provider's login, ``None`` if it succeeded."""
    tried: dict[str, JobError | None] = {}
    for name, provider in providers.items():
        if check_login := getattr(provider, "check_login", None):
            tried[name] = None
            try:
                await check_login()
            except JobError as error:
                tried[name] = error
            except Exception as error:  # noqa: BLE001  # as in examine: any package's code
                message = f"its check_login raises {type(error).__name__}"
                tried[name] = JobError(ErrorCode.INTERNAL, message)
    return tried
