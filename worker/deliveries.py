"""Messages that a worker holds stay its own; those of a dead worker come back within seconds.

kombu's Redis transport gives every message back that has not been acknowledged for
``visibility_timeout``, however alive its worker is. With this step the timeout can be
short: a worker renews the messages that it holds, in the thread that received them.
"""

import time
from typing import Any, Final

from celery import bootsteps
from celery.utils.log import get_logger

logger = get_logger(__name__)

VISIBILITY_TIMEOUT_S: Final = 8
RENEW_INTERVAL_S: Final = 2.0


class KeepDeliveries(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """A step of Celery's consumer; does nothing with a broker that is not Redis."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Celery calls this for each connection to the broker."""
        if consumer.connection.transport.driver_type == "redis":
            self._timer = consumer.timer.call_repeatedly(RENEW_INTERVAL_S, renew, (consumer,))

    def stop(self, consumer: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Celery calls this when the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def renew(consumer: Any) -> None:
    """Put off the time at which the messages that ``consumer`` holds are given back."""
    channel = consumer.task_consumer.channel
    qos = channel.qos
    held = qos._delivered.keys() - qos._dirty  # noqa: SLF001  # kombu 5.7 offers no other way
    if held:
        now = time.time()
        with channel.conn_or_acquire() as client:
            # XX: one that was acknowledged meanwhile must not come back.
            client.zadd(channel.unacked_index_key, dict.fromkeys(held, now), xx=True)
