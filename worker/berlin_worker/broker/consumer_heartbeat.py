"""The heartbeat of the consumer, with any broker: its own loop beats every second."""

from typing import Any, Final

from celery import bootsteps

from berlin_worker.telemetry.liveness import LIVENESS

_TICK_S: Final = 1.0


class ConsumerHeartbeat(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """A step of Celery's consumer that beats while the consumer's loop runs."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Start beating; Celery calls this for each connection to the broker."""

        def beat() -> None:
            LIVENESS.consumer.beat()
            LIVENESS.slots = consumer.pool.limit

        beat()
        self._timer = consumer.timer.call_repeatedly(_TICK_S, beat)

    def stop(self, consumer: Any) -> None:
        """Stop beating.

        Celery calls this when the connection is gone, and at the beginning of a shutdown.
        """
        LIVENESS.draining = consumer.blueprint.state == bootsteps.CLOSE
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
