"""kombu's Redis transports with channels that lose no message; see ``reserve.py``."""

from typing import Final

from kombu.transport import TRANSPORT_ALIASES, redis

from berlin_schemas.jobs import MAX_JOB_BYTES
from berlin_worker.broker.purge import PurgeMixin
from berlin_worker.broker.reserve import AtomicReserveMixin
from berlin_worker.storage import kombu_sentinel

_OPTIONS: Final = ("dead_letters_max", "max_job_bytes")
"""Transport options of the channels of this module, beside kombu's."""


class RedisChannel(AtomicReserveMixin, PurgeMixin, redis.Channel):  # type: ignore[misc]  # kombu has no type information
    """The channel for ``redis://`` and ``rediss://``."""

    from_transport_options = (*redis.Channel.from_transport_options, *_OPTIONS)  # type: ignore[assignment]  # kombu's own subclass adds some too
    dead_letters_max = 10_000
    max_job_bytes = MAX_JOB_BYTES


class SentinelChannel(AtomicReserveMixin, PurgeMixin, kombu_sentinel.SentinelChannel):  # type: ignore[misc]  # kombu has no type information
    """The channel for ``sentinel://``."""

    @property
    def settled_at(self) -> float:
        """When (``monotonic()``) the last failover was over for this process."""
        return 0.0 if self.watch is None else self.watch.settled_at

    from_transport_options = (*kombu_sentinel.SentinelChannel.from_transport_options, *_OPTIONS)  # type: ignore[assignment]  # kombu's own subclass adds some too
    dead_letters_max = 10_000
    max_job_bytes = MAX_JOB_BYTES


class RedisTransport(redis.Transport):
    """kombu's transport with :class:`RedisChannel`."""

    Channel = RedisChannel


class SentinelTransport(kombu_sentinel.SentinelTransport):
    """kombu's transport with :class:`SentinelChannel`."""

    Channel = SentinelChannel


def install() -> None:
    """Let the broker URLs of this process use the transports of this module.

    The aliases are replaced, since kombu turns on TLS for the alias ``rediss`` only.
    """
    TRANSPORT_ALIASES.update(
        redis=f"{__name__}:RedisTransport",
        rediss=f"{__name__}:RedisTransport",
        sentinel=f"{__name__}:SentinelTransport",
    )
