"""Hide secrets in the settings that ``celery report`` and ``inspect conf`` show.

Celery itself masks a password before the ``@`` of a URL, but not one in the options after a ``?``.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from celery.app import utils

if TYPE_CHECKING:
    from celery import Celery

    from berlin_worker.settings import Settings


def without_secrets(value: Any, hide: Callable[[str], str]) -> Any:
    """Return a copy of ``value`` in which ``hide`` has replaced each string, at any depth."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return {key: without_secrets(each, hide) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(each, hide) for each in value]
    return value


def install(app: "Celery", settings: "Settings") -> None:
    """Hide the secrets of ``settings`` in what Celery shows of ``app``."""
    mask = utils.filter_hidden_settings
    bugreport = app.bugreport

    def hide_in(urls: Iterable[Any]) -> Callable[[str], str]:
        # Loaded when something is shown: importing the app must not load the log.
        from berlin_worker.telemetry import logs, redact  # noqa: PLC0415  # only to show settings

        found = {secret for url in urls if isinstance(url, str) for secret in logs.secrets_in(url)}
        return redact.hider(logs.secrets_of(settings) | found)

    def mask_all(conf: dict[str, Any]) -> Any:
        return without_secrets(mask(conf), hide_in(conf.values()))

    def report() -> str:
        conf = app.conf
        urls = (conf.result_backend, conf.broker_read_url, conf.broker_write_url)
        return hide_in(urls)(bugreport())

    utils.filter_hidden_settings = mask_all
    app.bugreport = report
