"""The endpoints of the environment: the provider ``openai``, and each of WORKER_ENDPOINTS."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from berlin_worker.config import endpoints as listed
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: its base URL, without a slash at its end, and its key, "" for none."""

    url: str
    key: str = field(default="", repr=False)


def is_configured(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Return whether the environment asks for the provider ``openai``."""
    return bool(settings.openai_api_key or environ.get("OPENAI_BASE_URL"))


def find(name: str, settings: Settings, environ: Mapping[str, str]) -> Endpoint:
    """Return the endpoint of the provider ``openai``, or, by name, one of :func:`names`.

    Raises ``SettingsError`` for a key that no HTTP header can hold, and for ``openai`` if nothing
    asks for it: no prompt goes to the public server only because a job names the provider.
    """
    if name:
        variable = listed.key_variable(name)
        url, key = listed.parse(settings.endpoints)[name], environ.get(variable, "")
    elif not is_configured(settings, environ):
        message = "set OPENAI_API_KEY, or OPENAI_BASE_URL for a server that needs no key"
        raise SettingsError(message)
    else:
        variable, secret = "OPENAI_API_KEY", settings.openai_api_key
        url, key = settings.openai_url, secret.get_secret_value() if secret else ""
    key = key.strip()
    if " " in key or not (key.isascii() and key.isprintable()):
        raise SettingsError(f"{variable}: it has a character that no HTTP header can hold")
    return Endpoint(url, key)


def names(settings: Settings) -> list[str]:
    """Return the names of WORKER_ENDPOINTS, in their order; raises ``SettingsError``."""
    return list(listed.parse(settings.endpoints))
