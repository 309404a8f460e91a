"""kombu's transport for Sentinels, whose connections follow the primary as all others do."""

import functools
from typing import Any, Final

from kombu.transport import redis

from berlin_worker.config import urls
from berlin_worker.storage.primary_pool import (
    BlockingPrimaryConnection,
    BlockingPrimaryPool,
    SecureBlockingPrimaryConnection,
)
from berlin_worker.storage.sentinel import PrimaryWatch, watch_of

_ADDRESS: Final = ("host", "port")


class SentinelChannel(redis.SentinelChannel):
    """A channel for the transport option ``primary_url``, a ``redis+sentinel://`` URL.

    Another app of the process has kombu's own options for a ``sentinel://`` URL. Without
    ``primary_url`` the channel connects as kombu's own does.
    """

    connection_class = BlockingPrimaryConnection
    connection_class_ssl = SecureBlockingPrimaryConnection  # type: ignore[assignment]  # kombu's own class is a subclass of redis-py's, as ours is
    from_transport_options = (*redis.SentinelChannel.from_transport_options, "primary_url")  # type: ignore[assignment]  # kombu's own subclass adds some too
    primary_url = ""

    def __init__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        if not connection.client.transport_options.get("primary_url"):
            self.connection_class = redis.SentinelChannel.connection_class  # type: ignore[assignment]  # kombu's
            self.connection_class_ssl = redis.SentinelChannel.connection_class_ssl  # type: ignore[assignment]  # kombu's
        super().__init__(connection, *args, **kwargs)  # type: ignore[no-untyped-call]  # kombu

    @functools.cached_property
    def watch(self) -> PrimaryWatch | None:
        """What finds the primary, unless kombu's own connections do."""
        return watch_of(urls.parse_redis(self.primary_url, "")) if self.primary_url else None

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> Any:
        if self.watch is None:
            return super()._sentinel_managed_pool(asynchronous)  # type: ignore[no-untyped-call]  # kombu
        found: dict[str, Any] = self._connparams(asynchronous)  # type: ignore[no-untyped-call]  # kombu
        options = {name: value for name, value in found.items() if name not in _ADDRESS}
        return BlockingPrimaryPool(self.watch, **options)


class SentinelTransport(redis.SentinelTransport):
    """kombu's transport with :class:`SentinelChannel`."""

    Channel = SentinelChannel
