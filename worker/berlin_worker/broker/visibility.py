"""Extend the visibility timeout of the messages that a worker holds, for as long as it can work.

kombu's Redis transport requeues a message that has not been acknowledged for
``visibility_timeout``, even if its worker runs. Since this step extends the held messages, the
timeout can be short, and the messages of a dead worker come back within seconds. After a lost
connection the worker keeps the messages of the tasks that still run.
"""

from collections.abc import Mapping
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.app.utils import Settings
from celery.utils.log import get_logger
from celery.worker import state

from berlin_worker.broker import running
from berlin_worker.broker.state import STATE
from berlin_worker.config.recovery_times import (
    CUT_OFF_S,
    HUNG_S,
    RENEW_INTERVAL_S,
    VISIBILITY_TIMEOUT_S,
)

if TYPE_CHECKING:
    from berlin_worker.broker.qos import QoS

logger = get_logger(__name__)


class ExtendVisibility(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """A step of Celery's consumer that extends the held messages, and suspends the consumer."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._timers: list[Any] = []
        self._qos: QoS | None = None
        self._paused = False

    def start(self, consumer: Any) -> None:
        """Start the timers; Celery calls this for each connection to the broker."""
        repeat = consumer.timer.call_repeatedly
        self._paused = False
        self._timers = [repeat(HUNG_S / 2, self._check, (consumer,))]
        if not _is_redis(consumer):
            return
        qos = self._qos = consumer.task_consumer.channel.qos
        # Celery has dropped the messages of tasks that had not begun: they are delivered again.
        qos.adopt(request.message for request in state.active_requests if not request.acknowledged)
        silent_s = monotonic() - STATE.extended_at
        qos.extend_all()
        if STATE.restores_from:
            STATE.restores_from = monotonic() + grace_s(silent_s, STATE.restores_in_s)
        self._timers += [
            repeat(RENEW_INTERVAL_S, qos.extend_visibility),
            repeat(RENEW_INTERVAL_S / 10, qos.extend_some),
        ]

    def stop(self, consumer: Any) -> None:
        """Stop requeuing for others, and the timers unless the pool drains.

        Celery calls this when the connection is gone, and at the beginning of a shutdown.
        """
        if STATE.restores_from != inf:
            STATE.restores_in_s = max(0.0, STATE.restores_from - monotonic())
        STATE.restores_from = inf
        # At a shutdown the pool still drains: its messages are extended until shutdown().
        if consumer.blueprint.state != bootsteps.CLOSE:
            self._cancel()

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Stop the timers; Celery calls this when all other steps have stopped."""
        self._cancel()
        if self._qos is not None:
            self._qos.flush_acks()  # no turn of the event loop follows the last one

    def _check(self, consumer: Any) -> None:
        suspend_or_resume(consumer.pool)
        if _is_redis(consumer) or consumer.blueprint.state != bootsteps.RUN:
            return
        # RabbitMQ delivers until the consumer is cancelled, and requeues only when a connection
        # ends or a message is rejected.
        if STATE.suspended != self._paused:
            self._paused = STATE.suspended
            if STATE.suspended:
                _stop_consuming(consumer.task_consumer)
            else:
                # call_soon, since the hub drops the errors of a timer, except a lost connection.
                consumer.call_soon(consumer.task_consumer.consume)
        if consumer.pool.silent_s > VISIBILITY_TIMEOUT_S:
            for request in tuple(state.requests.values()):
                request.release()

    def _cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers = []


def _stop_consuming(task_consumer: Any) -> None:
    # kombu's cancel() waits for the reply without a limit, and the network may be broken.
    for tag in task_consumer._active_tags.values():  # noqa: SLF001  # kombu has no public call
        task_consumer.channel.basic_cancel(tag, nowait=True)
    task_consumer._active_tags.clear()  # noqa: SLF001  # what kombu's cancel() clears
    task_consumer._active_queue_no_ack.clear()  # noqa: SLF001  # what kombu's cancel() clears


def _is_redis(consumer: Any) -> bool:
    return bool(consumer.connection.transport.driver_type == "redis")


def grace_s(silent_s: float, left_s: float) -> float:
    """Return for how long after a reconnect this process requeues nothing of other workers, s.

    If it has extended no message for ``silent_s``, others may have been cut off as well. After a
    longer outage each gets a whole visibility timeout to extend its messages. A shorter one lets
    none expire: the time ``left_s`` runs on, and others have the time to connect. With connections
    that are lost every few seconds, a whole timeout would never be over, and the messages of dead
    workers would not come back.
    """
    if silent_s < CUT_OFF_S:
        return max(left_s, RENEW_INTERVAL_S)
    return VISIBILITY_TIMEOUT_S


def redelivered_at_once(delivery_info: Mapping[str, Any], conf: Settings) -> bool:
    """Return whether the worker that held a message before may still hold the lease of its job.

    RabbitMQ requeues messages when a connection ends, before the leases of their jobs expire. Redis
    does so after ``VISIBILITY_TIMEOUT_S``, when the leases have expired, or when the worker itself
    has released the job. ``conf`` is the configuration of the app.
    """
    # conf is read last: to look up a setting costs more than the rest of this function.
    return bool(delivery_info.get("redelivered")) and not conf.broker_read_url.startswith(
        ("redis", "sentinel")
    )


def suspend_or_resume(pool: Any) -> None:
    """Suspend this process if its event loop, or every event store, does not answer; else resume.

    The leases of a suspended process expire, and other workers take its jobs over. Its consumer,
    which still runs in the main thread, must neither take nor extend any message.
    """
    suspended = pool.silent_s > HUNG_S or running.silent_s() > CUT_OFF_S
    if suspended != STATE.suspended:
        stopped = "hangs, or is cut off from Redis: it takes no more jobs"
        change = stopped if suspended else "can work again"
        logger.warning("this worker %s", change)
        STATE.suspended = suspended
