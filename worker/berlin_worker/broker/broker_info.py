"""The broker in the reply to ``celery inspect stats``: its address, without any login."""

from collections.abc import Mapping
from typing import Any, Final

from celery.bootsteps import StartStopStep
from celery.worker.consumer.connection import Connection

from berlin_worker.config.addresses import address

_SECRET: Final = ("password", "ssl", "credential_provider", "primary_url")
"""``ssl`` may hold the password of a key."""


def shown(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of kombu's ``Connection.info()`` that hold no secret."""
    found = {name: value for name, value in info.items() if name not in _SECRET}
    if isinstance(options := found.get("transport_options"), Mapping):
        found["transport_options"] = {k: v for k, v in options.items() if k not in _SECRET}
    # For a Unix socket kombu puts the whole URL into the name of the host.
    if isinstance(host := found.get("hostname"), str):
        found["hostname"] = address(host)
    if isinstance(others := found.get("alternates"), list | tuple):
        found["alternates"] = [address(str(url)) for url in others]
    return found


class BrokerInfo(StartStopStep):  # type: ignore[misc]  # celery has no type information
    """A step of Celery's consumer that runs after Celery's own and replaces its reply."""

    requires = (Connection,)

    def info(self, c: Any) -> dict[str, Any]:
        """Return the public fields of the connection of the consumer ``c``."""
        return {"broker": shown(c.connection.info())} if c.connection else {}
