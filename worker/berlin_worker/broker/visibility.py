"""Messages that a worker holds stay its own; those of a dead worker come back within seconds.

kombu's Redis transport gives every message back that has not been acknowledged for
``visibility_timeout``, however alive its worker is. With this step the timeout can be
short: a worker renews the messages that it holds, in the thread that received them. After
a lost connection it holds on to those of the tasks that still run.
"""

from collections.abc import Mapping
from math import inf
from time import monotonic
from typing import Any, Final

from celery import bootsteps
from celery.app.utils import Settings
from celery.utils.log import get_logger
from celery.worker import state

from berlin_worker.broker import running
from berlin_worker.broker.qos import QoS

logger = get_logger(__name__)

VISIBILITY_TIMEOUT_S: Final = 8
RENEW_INTERVAL_S: Final = 2.0
HUNG_S: Final = 2.0
"""An event loop that does not answer for longer gets no more work, and counts as dead."""
CUT_OFF_S: Final = 4.0
"""So does a process that cannot reach the store of events, where it would have to claim a job."""


class KeepDeliveries(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """A step of Celery's consumer."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._timers: list[Any] = []
        self._qos: QoS | None = None
        self._paused = False

    def start(self, consumer: Any) -> None:
        """Celery calls this for each connection to the broker."""
        repeat = consumer.timer.call_repeatedly
        self._paused = False
        self._timers = [repeat(HUNG_S / 2, self._look, (consumer,))]
        if not _is_redis(consumer):
            return
        qos = self._qos = consumer.task_consumer.channel.qos
        # What Celery had received and not begun it has forgotten: that is delivered again.
        qos.adopt(request.message for request in state.active_requests if not request.acknowledged)
        qos.keep_all()
        if QoS.restores_from:
            QoS.restores_from = monotonic() + VISIBILITY_TIMEOUT_S
        self._timers += [
            repeat(RENEW_INTERVAL_S, qos.keep),
            repeat(RENEW_INTERVAL_S / 10, qos.extend_some),
        ]

    def stop(self, consumer: Any) -> None:
        """Celery calls this when the connection is gone, and first of all at a shutdown."""
        QoS.restores_from = inf
        if consumer.blueprint.state != bootsteps.CLOSE:
            self._cancel()
        # Else the pool still drains, and holds its messages until it is done.

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Celery calls this when all else has stopped."""
        self._cancel()
        if self._qos is not None:
            self._qos.settle()  # those of the last turn, which no turn follows

    def _look(self, consumer: Any) -> None:
        look(consumer.pool)
        if _is_redis(consumer) or consumer.blueprint.state != bootsteps.RUN:
            return
        # RabbitMQ delivers until it is told otherwise, and takes nothing back from the living.
        if QoS.hung != self._paused:
            self._paused = QoS.hung
            if QoS.hung:
                _stop_consuming(consumer.task_consumer)
            else:
                # Not here: of the errors in a timer the hub tells none but a lost connection.
                consumer.call_soon(consumer.task_consumer.consume)
        if consumer.pool.silent_s > VISIBILITY_TIMEOUT_S:
            for request in tuple(state.requests.values()):
                request.release()

    def _cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []


def _stop_consuming(task_consumer: Any) -> None:
    # kombu's own cancel() waits for the answer, without a limit; the network may be the trouble.
    for tag in task_consumer._active_tags.values():  # noqa: SLF001  # kombu offers no other way
        task_consumer.channel.basic_cancel(tag, nowait=True)
    task_consumer._active_tags.clear()  # noqa: SLF001  # the same
    task_consumer._active_queue_no_ack.clear()  # noqa: SLF001  # the same


def _is_redis(consumer: Any) -> bool:
    return bool(consumer.connection.transport.driver_type == "redis")


def redelivered_at_once(delivery_info: Mapping[str, Any], conf: Settings) -> bool:
    """Whether the worker that had a message before may have died just now.

    RabbitMQ gives messages back when a connection ends, before the leases of the jobs have run
    out; Redis after ``VISIBILITY_TIMEOUT_S``, when their leases are long over. ``conf`` is the
    app's, which takes longer to look something up than all else here.
    """
    return bool(delivery_info.get("redelivered")) and not conf.broker_read_url.startswith(
        ("redis", "sentinel")
    )


def look(pool: Any) -> None:
    """Note whether this process can work: its event loop answers, and the store does.

    Its jobs are taken over if not (see ``leases``); its consumer, which lives on in the main
    thread, must not take more, nor hold on to what it has.
    """
    hung = pool.silent_s > HUNG_S or running.silent_s() > CUT_OFF_S
    if hung != QoS.hung:
        told = "hangs, or is cut off from Redis: no more jobs" if hung else "can work again"
        logger.warning("this worker %s", told)
        QoS.hung = hung
