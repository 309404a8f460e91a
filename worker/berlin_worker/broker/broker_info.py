"""What ``celery inspect stats`` returns of the broker: where it is, and no part of a login."""

from collections.abc import Mapping
from typing import Any, Final

from celery.bootsteps import StartStopStep
from celery.worker.consumer.connection import Connection

from berlin_worker.config.addresses import address

_SECRET: Final = ("password", "ssl", "credential_provider")
"""``ssl`` holds the password of a key."""


def shown(info: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of kombu's ``Connection.info()`` that hold no secret."""
    found = {name: value for name, value in info.items() if name not in _SECRET}
    # For a Unix socket kombu takes the whole URL for the name of the host.
    if isinstance(host := found.get("hostname"), str):
        found["hostname"] = address(host)
    if isinstance(others := found.get("alternates"), list | tuple):
        found["alternates"] = [address(str(url)) for url in others]
    return found


class BrokerInfo(StartStopStep):  # type: ignore[misc]  # celery has no type information
    """Comes after Celery's own step, and so replaces what that one returns."""

    requires = (Connection,)

    def info(self, c: Any) -> dict[str, Any]:
        """``c`` is the consumer."""
        return {"broker": shown(c.connection.info())} if c.connection else {}
