"""The models that an upstream offers, as one request returns them."""

from collections.abc import Mapping

from berlin_worker import providers
from berlin_worker.providers.base import Services
from berlin_worker.providers.http import open_session
from berlin_worker.providers.served import configured_providers, load, provider_cache
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings


async def models_of(name: str, settings: Settings, environ: Mapping[str, str]) -> list[str] | None:
    """Return the models of the provider ``name``, or ``None`` if it offers no list.

    Raises ``JobError`` if its upstream does not answer, ``SettingsError`` if it lacks a setting.
    """
    # Build this provider alone: the others may lack settings.
    alone = settings.model_copy(update={"providers": name, "default_provider": name})
    async with open_session(alone) as session:
        services = Services(session, LocalTokens(), alone, environ)
        list_models = getattr(provider_cache(services, alone)(name), "models", None)
        if list_models is None:
            return None
        models: list[str] = await list_models()
        return models


def built_in_with_models() -> list[str]:
    """Return the names of the built-in providers that can list their models."""
    return [name for name in providers.built_in() if hasattr(providers.load(name), "models")]


def with_endpoint(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Return the configured providers that offer a list of models. Raises ``SettingsError``."""
    found = []
    for name in sorted(configured_providers(settings, environ)):
        kind = load(name, settings, environ)
        is_configured = getattr(kind, "is_configured", None)
        if hasattr(kind, "models") and is_configured and is_configured(settings, environ):
            found.append(name)
    return found
