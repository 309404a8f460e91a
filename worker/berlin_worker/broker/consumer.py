"""Celery's consumer, for a queue on which anything may stand.

Celery logs a message that it cannot use with its body, which may hold a prompt, and
drops it; a message of an odd shape ends the worker. Here such a message goes to the dead
letters, and where it has a usable ID, its reader is told: ``failed``, ``invalid_job``.
"""

import functools
import json
from collections.abc import Callable
from typing import Any, Final

from celery.exceptions import WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from kombu.serialization import registry

from berlin_schemas import ErrorCode
from berlin_worker.broker import decompression, envelope, running
from berlin_worker.broker.guard import Guarded, is_lost_connection
from berlin_worker.broker.remote_control import ControlNode, guarded_events
from berlin_worker.broker.transport import check_options
from berlin_worker.broker.validation import InvalidMessage
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.telemetry.liveness import LIVENESS

logger = get_logger(__name__)

_TOLD: Final = "the message is no worker.generate task that this worker could run"
_RECONNECT_S: Final = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2.0}


class PromptConsumer(Consumer):  # type: ignore[misc]  # celery has no type information
    """``app.conf.worker_consumer``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        app = kwargs["app"]
        try:
            check_options(app.conf.broker_transport_options)
        except SettingsError as error:
            logger.critical("The worker cannot start: %s", error)
            raise WorkerShutdown(EX_FAILURE) from None
        app.control.mailbox.node_cls = ControlNode
        super().__init__(*args, **kwargs)
        decompression.install()
        self._guard_gossip(self.gossip)
        Guarded.on_unreadable = staticmethod(_tell_reader)  # type: ignore[method-assign]
        # A job is plain JSON: no hook for each object of it, to which some objects say more.
        registry.register("json", json.dumps, json.loads, "application/json", "utf-8")

    def _guard_gossip(self, gossip: Any) -> None:
        """Let no event end the worker: Celery's consumer of them has no ``on_decode_error``."""
        # No election: the elected worker would send any task to any queue.
        gossip.event_handlers = {}
        gossip.on_message = guarded_events(gossip.on_message)
        get_consumers = gossip.get_consumers

        def get_guarded(channel: Any) -> Any:
            consumers = get_consumers(channel)
            for consumer in consumers:
                consumer.on_decode_error = self.on_decode_error
            return consumers

        gossip.get_consumers = get_guarded

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes; Celery would come to wait 30 s between its tries."""
        connect = functools.partial(conn.ensure_connection, **_RECONNECT_S)

        def ensure_connection(*args: Any, callback: Callable[[], None], **kwargs: Any) -> Any:
            def between_tries() -> None:
                LIVENESS.consumer.beat()
                callback()

            return connect(*args, callback=between_tries, **kwargs)

        conn.ensure_connection = ensure_connection
        return super().ensure_connected(conn)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """What is called for each message."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_message(message: Any) -> None:
            try:
                handle(message)
                # Celery's request has what it needs of them, for as long as the job streams.
                message.headers, message.body = {}, b""
            except Exception as error:  # a message may have any shape
                if is_lost_connection(error):
                    raise
                self._discard(message, "not_a_task", error)

        return on_message

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """The body is not what its headers say, or of a kind that is not accepted."""
        tasks = getattr(self.task_consumer, "channel", None)
        if message.channel is not tasks:  # who listens to broadcasts acknowledges nothing
            logger.warning("a broadcast was dropped: %s", type(exc).__name__)
            return
        self._discard(message, "undecodable", exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """The message is of neither of Celery's protocols."""
        self._discard(message, "not_a_task", None)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """The message names a task that this worker does not have."""
        self._discard(message, "unknown_task", exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Celery cannot make a request of the message, or what it would make could not run."""
        if isinstance(exc, InvalidMessage):
            self._discard(message, exc.reason, exc, told=str(exc))
        else:
            self._discard(message, "not_a_task", exc)

    def _discard(
        self, message: Any, reason: str, error: Exception | None, *, told: str = _TOLD
    ) -> None:
        logger.error("a message was discarded: %s (%s)", reason, type(error).__name__)
        try:
            running.discard(envelope.task_id_of(message), reason, told, _bytes_of(message.body))
        except Exception as failure:  # noqa: BLE001  # Redis does not answer, or refuses
            logger.error("it could not be moved to the dead letters: %r", failure)  # noqa: TRY400  # says all there is
            self._release(message)
        else:
            message.ack_log_error(logger, self.connection_errors)

    def _release(self, message: Any) -> None:
        """Let the broker deliver a message again, later if it can."""
        forget = getattr(getattr(message.channel, "qos", None), "forget", None)
        if forget is None:
            message.reject_log_error(logger, self.connection_errors, requeue=True)
        else:
            forget(message.delivery_tag)


def _bytes_of(body: Any) -> bytes:
    return body if isinstance(body, bytes) else str(body or "").encode("utf-8", "replace")


def _tell_reader(job_id: str) -> None:
    if job_id:
        told = "the message is none that a Celery worker can read"
        running.refuse(job_id, JobError(ErrorCode.INVALID_JOB, told))
