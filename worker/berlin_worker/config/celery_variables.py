"""Variables of the environment that configure Celery and bypass our settings (pure)."""

from collections.abc import Collection
from typing import Final

from berlin_worker.errors import SettingsError

BROKERS: Final = ("CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
"""Celery prefers these to ``CELERY_BROKER_URL``: all that are set must name one broker."""
_IGNORED: Final = ("CELERY_CONFIG_MODULE", "CELERY_LOADER")


def another_broker(name: str) -> str:
    """Return the error for one of ``BROKERS`` that does not name the broker of the settings."""
    return (
        f"{name} names another broker than CELERY_BROKER_URL (if that is not set, REDIS_URL), but "
        f"jobs are read from and requeued to one broker: unset {name}"
    )


def check_broker_option(variable: str | None) -> None:
    """Raise ``SettingsError`` if ``variable`` has set Celery's option ``--broker``.

    Clients and the other commands do not read it, and would use another broker.
    """
    if variable is not None:
        raise SettingsError(
            f"{variable} is set, and Celery's command prefers it to CELERY_BROKER_URL, which "
            f"clients use: unset {variable}, and name the broker in CELERY_BROKER_URL"
        )


def warnings(names: Collection[str]) -> list[str]:
    """Return a line for each of ``names`` that configures other Celery apps and not ours."""
    return [
        f"{name} has no effect: the settings in deploy/README.md alone configure this worker"
        for name in _IGNORED
        if name in names
    ]
