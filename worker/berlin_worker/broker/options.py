"""Which transport options of kombu a broker on Redis accepts. Pure."""

from collections.abc import Mapping
from typing import Any

from berlin_worker.errors import SettingsError


def check_options(transport_options: Mapping[str, Any]) -> None:
    """Raise ``SettingsError`` for an option that this transport would obey in part only."""
    if transport_options.get("global_keyprefix"):
        raise SettingsError(
            "broker_transport_options: global_keyprefix is not supported: give each fleet a Redis "
            "database or server of its own (CELERY_BROKER_URL)"
        )
