"""The providers that a worker serves: which they are, by its settings, and each built once."""

import logging
from collections.abc import Callable

from berlin_schemas import ErrorCode
from berlin_worker import providers
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.providers.base import Provider, Services
from berlin_worker.settings import Settings

logger = logging.getLogger(__name__)


def configured_providers(settings: Settings) -> frozenset[str]:
    """Return the names of the providers that a worker builds at its start."""
    berlin = ["berlin"] if settings.berlin_account else []
    return frozenset(settings.served_providers or {settings.default_provider, *berlin})


def provider_cache(services: Services, settings: Settings) -> Callable[[str], Provider]:
    """A function that returns the provider of a name, built at its first use.

    The function raises ``JobError(INVALID_JOB)`` for a name that this worker does not serve.
    What the settings name is built now, so that a missing login is an error at the start and not
    in the first job: WORKER_PROVIDERS, or else the default provider, and Berlin if it has an
    account. Raises ``SettingsError``.
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
            built[name] = providers.load(name)(services)
        except SettingsError as error:
            if refused.get(name) != str(error):
                logger.error("provider %s: %s", name, error)  # noqa: TRY400  # says all there is
                refused[name] = str(error)
            message = f"provider: {name} is not configured on this worker"
            raise JobError(ErrorCode.INVALID_JOB, message) from None
        return built[name]

    wanted = configured_providers(settings)
    for name in sorted(wanted):
        variable = "WORKER_PROVIDERS" if served else "WORKER_DEFAULT_PROVIDER"
        try:
            built[name] = providers.load(name)(services)
        except JobError as error:  # no such provider
            raise SettingsError(f"{variable}: {error.message}") from None
    logger.info(
        "providers: %s%s; jobs that name none go to %s",
        ", ".join(sorted(wanted)),
        "" if served else ", and each other installed one that a job names",
        default if default in wanted else f"{default}, which is not served: they are refused",
    )
    return provider
