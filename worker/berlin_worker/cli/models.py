"""List the models of one upstream."""

import asyncio
import os

from berlin_worker.cli.errors import Problem
from berlin_worker.cli.output import print_out, printable
from berlin_worker.cli.preflight import load_settings
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Services
from berlin_worker.providers.http import open_session
from berlin_worker.providers.served import provider_cache
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings


def run(provider: str | None) -> int:
    """Print the models of ``provider``, one a line. Return the exit code.

    Raises ``Problem`` if it offers no list or its upstream does not answer, ``SettingsError``
    if it lacks a setting.
    """
    settings = load_settings()
    name = provider or settings.default_provider
    try:
        models = asyncio.run(_models_of(name, settings))
    except JobError as error:
        raise Problem(f"provider {name}: {error.message}") from None
    for model in models:
        print_out(printable(model).replace("\n", " "))
    return 0


async def _models_of(name: str, settings: Settings) -> list[str]:
    # A worker that serves this provider alone: the others may lack settings.
    alone = settings.model_copy(update={"providers": name, "default_provider": name})
    async with open_session(alone) as session:
        services = Services(session, LocalTokens(), alone, os.environ)
        list_models = getattr(provider_cache(services, alone)(name), "models", None)
        if list_models is None:
            raise Problem(
                f"provider {name} offers no list of models",
                hint="name a provider that does, with --provider: openai",
            )
        models: list[str] = await list_models()
        return models
