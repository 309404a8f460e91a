"""The providers that a worker serves: chosen by its settings, checked, and each built once."""

import logging
from collections.abc import Callable, Iterable, Mapping

from berlin_schemas import ErrorCode
from berlin_worker import providers
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.providers.base import Provider, Services
from berlin_worker.settings import Settings
from berlin_worker.telemetry import known_secrets

logger = logging.getLogger(__name__)


def further_providers(
    settings: Settings, environ: Mapping[str, str]
) -> Mapping[str, type[Provider]]:
    """Return the providers that the environment names besides the installed ones, by name.

    Raises ``SettingsError`` for a name that is taken.
    """
    found: dict[str, type[Provider]] = {}
    installed = {*providers.names()}
    for name in providers.built_in():
        named = getattr(providers.load(name), "further", _nothing)(settings, environ) or {}
        for taken in sorted(named.keys() & (installed | found.keys())):
            message = f"{taken} is the name of another provider: choose a different one"
            raise SettingsError(f"{message} in the setting of {name}'s endpoints")
        found.update(named)
    return found


def load(name: str, settings: Settings, environ: Mapping[str, str]) -> type[Provider]:
    """Return the class of a provider, installed or named by the environment.

    Raises as :func:`berlin_worker.providers.load` and :func:`further_providers` do.
    """
    further = further_providers(settings, environ)
    try:
        return further.get(name) or providers.load(name)
    except JobError as error:
        named = "".join(f", {each}" for each in sorted(further))
        raise JobError(error.code, error.message + named) from None


def configured_providers(settings: Settings, environ: Mapping[str, str]) -> frozenset[str]:
    """Return the names of the providers that a worker builds at its start.

    WORKER_PROVIDERS lists them. If it is empty, they are the built-in providers that the
    environment configures, and those that it names. The default provider is added if a setting
    names it, or if none is configured. Raises ``SettingsError`` for a name without a provider.
    """
    if settings.served_providers:
        names = settings.served_providers
    else:
        known = [*providers.built_in(), *further_providers(settings, environ)]
        names = frozenset(
            name for name in known if _is_configured(name, settings, environ, default=False)
        )
        if not names or "default_provider" in settings.model_fields_set:
            names |= {settings.default_provider}
    for name in sorted(names):
        try:
            load(name, settings, environ)
        except JobError as error:  # no such provider
            variable = (
                "WORKER_PROVIDERS" if settings.served_providers else "WORKER_DEFAULT_PROVIDER"
            )
            raise SettingsError(f"{variable}: {error.message}") from None
    return names


def default_models(
    settings: Settings, environ: Mapping[str, str], provider: Callable[[str], Provider]
) -> dict[str, str]:
    """Return by provider the model of a job that names none, if there is one.

    ``provider`` is what :func:`provider_cache` returns.
    """
    found: dict[str, str] = {}
    for name in configured_providers(settings, environ):
        own = getattr(provider(name), "default_model", "")
        if model := settings.default_model or (own if isinstance(own, str) else ""):
            found[name] = model
    return found


def lacks_settings(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Return whether a provider that a worker would build has no settings here at all.

    Such a machine may run no worker. Raises ``SettingsError`` as :func:`configured_providers` does.
    """
    wanted = configured_providers(settings, environ)
    return not all(_is_configured(name, settings, environ, default=True) for name in wanted)


def _is_configured(
    name: str, settings: Settings, environ: Mapping[str, str], *, default: bool
) -> bool:
    ask = getattr(load(name, settings, environ), "is_configured", None)
    return default if ask is None else bool(ask(settings, environ))


def check_settings(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raise ``SettingsError`` if a provider that the worker builds cannot work as it is set."""
    for name in sorted(configured_providers(settings, environ)):
        _check(load(name, settings, environ), settings, environ)


def server_url(name: str, settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return the URL of the upstream of a provider; ``None`` if it names none."""
    try:
        url = getattr(load(name, settings, environ), "server_url", _nothing)(settings, environ)
    except Exception as error:  # noqa: BLE001  # a provider may be any package's code
        logger.warning("provider %s: its server_url raised %s", name, type(error).__name__)
        return None
    return url if isinstance(url, str) else None


def _nothing(_: Settings, __: Mapping[str, str]) -> None:
    """Stand in for an optional part that a provider does not offer."""


def _check(kind: type[Provider], settings: Settings, environ: Mapping[str, str]) -> None:
    getattr(kind, "check_settings", _nothing)(settings, environ)


def _build(name: str, services: Services) -> Provider:
    """Register a provider's secrets with the log, and build it; its exceptions pass through."""
    settings, environ = services.settings, services.environ
    kind = load(name, settings, environ)
    secrets: object = getattr(kind, "secrets", _nothing)(settings, environ)
    if isinstance(secrets, Iterable):
        known_secrets.LOG.add(secret for secret in secrets if isinstance(secret, str))
    _check(kind, settings, environ)
    return kind(services)


def provider_cache(services: Services, settings: Settings) -> Callable[[str], Provider]:
    """Return a function that returns the provider of a name, built at its first use.

    The function raises ``JobError(INVALID_JOB)`` for a name that this worker does not serve.
    :func:`configured_providers` are built now, so that a missing login is an error at the start
    and not in the first job. Raises ``SettingsError``.
    """
    served = settings.served_providers
    default = settings.default_provider
    if served and default not in served and "default_provider" in settings.model_fields_set:
        raise SettingsError(
            "WORKER_DEFAULT_PROVIDER must be among WORKER_PROVIDERS: add it there, or name "
            f"{' or '.join(sorted(served))}"
        )
    built: dict[str, Provider] = {}
    refused: dict[str, str] = {}

    def provider(name: str) -> Provider:
        if name in built:
            return built[name]
        if served and name not in served:
            message = f"provider: {name[:40]!a} is not served by this worker, it serves: "
            raise JobError(ErrorCode.INVALID_JOB, message + ", ".join(sorted(served)))
        try:
            built[name] = _build(name, services)
        except SettingsError as error:
            if refused.get(name) != str(error):
                logger.error("provider %s: %s", name, error)  # noqa: TRY400  # the message is complete
                refused[name] = str(error)
            message = f"provider: {name} is not configured on this worker, it serves: "
            raise JobError(ErrorCode.INVALID_JOB, message + ", ".join(sorted(built))) from None
        return built[name]

    wanted = configured_providers(settings, services.environ)
    for name in sorted(wanted):
        built[name] = _build(name, services)
    logger.info(
        "providers: %s%s; jobs that name none go to %s",
        ", ".join(sorted(wanted)),
        "" if served else ", and every other installed one that a job names",
        default if default in wanted else f"{default}, which is not served: such jobs are refused",
    )
    return provider
