"""Messages that a worker holds stay its own; those of a dead worker come back within seconds.

kombu's Redis transport gives every message back that has not been acknowledged for
``visibility_timeout``, however alive its worker is. With this step the timeout can be
short: a worker renews the messages that it holds, in the thread that received them. After
a lost connection it holds on to those of the tasks that still run.
"""

from math import inf
from time import monotonic
from typing import Any, Final

from celery import bootsteps
from celery.worker import state

from worker.broker import QoS

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
        if consumer.connection.transport.driver_type != "redis":
            return
        qos = consumer.task_consumer.channel.qos
        # What Celery had received and not begun it has forgotten: that is delivered again.
        qos.adopt(request.message for request in state.active_requests if not request.acknowledged)
        qos.keep()
        if QoS.restores_from:
            QoS.restores_from = monotonic() + VISIBILITY_TIMEOUT_S
        self._timer = consumer.timer.call_repeatedly(RENEW_INTERVAL_S, qos.keep)

    def stop(self, consumer: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Celery calls this when the connection is gone."""
        QoS.restores_from = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
