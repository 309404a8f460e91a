"""Celery's consumer, for a queue that may hold messages of any shape.

Celery logs an invalid message with its body, which may hold a prompt, and drops it; messages of
some shapes end the worker. This consumer moves such a message to the dead letters. If the message
has a valid job ID, the job ends as ``failed`` with the code ``invalid_job``.
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
from berlin_schemas.jobs import MAX_JOB_BYTES
from berlin_worker.broker import amqp_decoding, decompression, envelope, running
from berlin_worker.broker.guard import is_lost_connection
from berlin_worker.broker.options import check_options
from berlin_worker.broker.remote_control import ControlNode, guarded_events
from berlin_worker.broker.scheduled import Postponed
from berlin_worker.broker.state import STATE
from berlin_worker.broker.validation import InvalidMessage
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.telemetry.liveness import LIVENESS

logger = get_logger(__name__)

_NO_TASK: Final = "the message is no worker.generate task that this worker could run"
_UNREADABLE: Final = "no Celery worker can read the message"
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
        options = app.conf.broker_transport_options
        decompression.install(options.get("max_job_bytes", MAX_JOB_BYTES))
        amqp_decoding.install()
        self._guard_gossip(self.gossip)
        STATE.on_unreadable = _fail_unreadable
        # A job is plain JSON. kombu's decoder calls a hook for each object, which may fail.
        registry.register("json", json.dumps, json.loads, "application/json", "utf-8")

    def _guard_gossip(self, gossip: Any) -> None:
        """Drop invalid events: Celery's consumer of events has no ``on_decode_error``."""
        # No election takes place: the elected worker would send any task to any queue.
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
        """Connect, with at most 2 s between two tries; Celery would wait up to 30 s."""
        connect = functools.partial(conn.ensure_connection, **_RECONNECT_S)

        def ensure_connection(*args: Any, callback: Callable[[], None], **kwargs: Any) -> Any:
            def between_tries() -> None:
                LIVENESS.consumer.beat()
                callback()

            return connect(*args, callback=between_tries, **kwargs)

        conn.ensure_connection = ensure_connection
        return super().ensure_connected(conn)

    def update_strategies(self) -> None:
        """Keep the tasks of the app only: Celery's own tasks are removed.

        One message of ``celery.group`` makes a worker send any task to any queue, which may be any
        key of Redis.
        """
        super().update_strategies()
        for name in [name for name in self.strategies if name.startswith("celery.")]:
            del self.strategies[name]

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return the function that receives each message."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_message(message: Any) -> None:
            try:
                handle(message)
                # Freed while the job streams: Celery's request has copied what it needs.
                message.headers, message.body = {}, b""
            except Exception as error:  # a message may have any shape
                if is_lost_connection(error):
                    raise
                self._discard(message, "not_a_task", error)

        return on_message

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Discard a message whose body cannot be decoded, or has no accepted content type."""
        tasks = getattr(self.task_consumer, "channel", None)
        if message.channel is not tasks:  # a broadcast, which is not acknowledged
            logger.warning("a broadcast was dropped: %s", type(exc).__name__)
            return
        self._discard(message, "undecodable", exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Discard a message that follows neither of Celery's protocols."""
        self._discard(message, "not_a_task", None)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Discard a message of a task that this worker does not have."""
        self._discard(message, "unknown_task", exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Discard a message that Celery cannot turn into a request, or postpone it."""
        if isinstance(exc, Postponed):
            message.channel.qos.postpone(message.delivery_tag, exc.due)
        elif isinstance(exc, InvalidMessage):
            self._discard(message, exc.reason, exc, detail=str(exc))
        else:
            self._discard(message, "not_a_task", exc)

    def _discard(
        self, message: Any, reason: str, error: Exception | None, *, detail: str = _NO_TASK
    ) -> None:
        cause = f" ({type(error).__name__})" if error else ""
        logger.error("a message was discarded: %s%s", reason, cause)
        try:
            running.discard(envelope.task_id_of(message), reason, detail, _bytes_of(message.body))
        except Exception as failure:  # noqa: BLE001  # Redis does not answer, or refuses
            logger.error("it could not be moved to the dead letters: %r", failure)  # noqa: TRY400  # the repr is enough
            self._release(message)
        else:
            message.ack_log_error(logger, self.connection_errors)

    def _release(self, message: Any) -> None:
        """Let the broker deliver a message again; Redis does so after the visibility timeout."""
        release = getattr(getattr(message.channel, "qos", None), "release", None)
        if release is None:
            message.reject_log_error(logger, self.connection_errors, requeue=True)
        else:
            release(message.delivery_tag)


def _bytes_of(body: Any) -> bytes:
    return body if isinstance(body, bytes) else str(body or "").encode("utf-8", "replace")


def _fail_unreadable(job_id: str) -> None:
    if job_id:
        running.refuse(job_id, JobError(ErrorCode.INVALID_JOB, _UNREADABLE))
