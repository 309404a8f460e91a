"""The endpoints of the environment: the provider ``openai``, and each of WORKER_ENDPOINTS."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from berlin_worker.config import endpoints as listed
from berlin_worker.config import urls
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings

_MODEL_CHARS: Final = 128


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: its base URL, without a slash at its end, and "" for each part that is not set.

    ``model`` is that of jobs that name none.
    """

    url: str
    key: str = field(default="", repr=False)
    model: str = ""
    proxy: str = field(default="", repr=False)

    @property
    def secrets(self) -> list[str]:
        """The key, and the password of the proxy."""
        password = urlsplit(self.proxy).password or ""
        return [secret for secret in (self.key, unquote(password)) if secret]


def is_configured(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Return whether the environment asks for the provider ``openai``."""
    return bool(settings.openai_api_key or environ.get("OPENAI_BASE_URL"))


def find(name: str, settings: Settings, environ: Mapping[str, str]) -> Endpoint:
    """Return the endpoint of the provider ``openai``, or, by name, one of :func:`names`.

    Raises ``SettingsError`` for a key that no HTTP header can hold, for an unusable model or proxy,
    and for ``openai`` if no setting asks for it: that a job names the provider is not enough to
    send its prompt to the public server.
    """
    key_of, model_of, proxy_of = "OPENAI_API_KEY", "OPENAI_MODEL", "OPENAI_PROXY"
    if name:
        key_of, model_of, proxy_of = (listed.variable(kind, name) for kind in listed.KINDS)
        url, key = listed.parse(settings.endpoints)[name], environ.get(key_of, "")
        model, proxy = environ.get(model_of, "").strip(), environ.get(proxy_of, "").strip()
    elif not is_configured(settings, environ):
        message = "set OPENAI_API_KEY, or OPENAI_BASE_URL for a server that needs no key"
        raise SettingsError(message)
    else:
        secret = settings.openai_api_key
        url, key = settings.openai_url, secret.get_secret_value() if secret else ""
        model, proxy = settings.openai_model, settings.openai_proxy or ""
    key = key.strip()
    if " " in key or not (key.isascii() and key.isprintable()):
        raise SettingsError(f"{key_of}: it has a character that no HTTP header can hold")
    if len(model) > _MODEL_CHARS or not model.isprintable():
        raise SettingsError(f"{model_of}: it must have {_MODEL_CHARS} printable characters at most")
    if proxy:
        urls.http(proxy, proxy_of, login=True)
    return Endpoint(url, key, model, proxy)


def names(settings: Settings) -> list[str]:
    """Return the names of WORKER_ENDPOINTS, in their order; raises ``SettingsError``."""
    return list(listed.parse(settings.endpoints))
