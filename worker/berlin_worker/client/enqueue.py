"""Putting jobs on the queue: Celery's blocking ``send_task``, in one thread of its own.

The app is bare: no backend, no fixups, no registered tasks, nothing of ``berlin_worker.celery``.
"""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Final

from amqp.exceptions import AMQPError
from celery import Celery
from kombu.exceptions import OperationalError

from berlin_schemas import InvalidJob, names
from berlin_worker.client.values import closed
from berlin_worker.config.addresses import address
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.config.celery_loader import SettingsLoader
from berlin_worker.errors import Unavailable
from berlin_worker.storage.batcher import Batcher
from berlin_worker.storage.redis_errors import refusal
from berlin_worker.telemetry import tracing

_AT_ONCE: Final = 64
_SOCKET_TIMEOUT_S: Final = 3.0
_TRANSPORT_OPTIONS: Final[dict[str, Any]] = {
    # Redis and Sentinel
    "socket_timeout": _SOCKET_TIMEOUT_S,
    "socket_connect_timeout": _SOCKET_TIMEOUT_S,
    "socket_keepalive": True,
    # RabbitMQ: a publish counts once the broker has confirmed it
    "confirm_publish": True,
    "read_timeout": _SOCKET_TIMEOUT_S,
    "write_timeout": _SOCKET_TIMEOUT_S,
}


MESSAGE: Final[dict[str, Any]] = {
    "queue": names.QUEUE,
    "serializer": "json",
    # Celery would copy the prompt into headers, from where it reaches events and logs.
    "argsrepr": "<hidden>",
    "kwargsrepr": "{}",
    "ignore_result": True,
    "retry": False,
}
"""The options of ``send_task`` for each message."""


_TOO_LARGE: Final = (
    "the message of the job is larger than RabbitMQ takes: raise max_message_size there, or "
    "pass images by URL"
)


class NotSent(Unavailable):
    """The message did not reach the broker."""


class MaybeSent(Unavailable):
    """The broker went away before it confirmed the message."""


@dataclass(frozen=True, slots=True)
class _Sending:
    job_id: str
    job: dict[str, Any]
    deadline: float
    context: Context
    """The caller's context: the message continues the trace in which the job was submitted."""


class Enqueuer:
    """Sends job messages over one broker connection, which belongs to one thread."""

    def __init__(self, broker_url: str, queue_type: str = "classic") -> None:
        broker = for_kombu(broker_url)
        self._url = broker.url
        self._where = address(broker_url)
        # Loader and backend are named so that CELERY_CONFIG_MODULE, CELERY_LOADER and
        # CELERY_RESULT_BACKEND, which are meant for the caller's own app, do not become ours.
        self._app = Celery(
            "berlin-client",
            set_as_current=False,
            fixups=[],
            loader=SettingsLoader,
            backend="disabled://",
        )
        self._app.conf.update(
            broker_transport_options=_TRANSPORT_OPTIONS | broker.transport_options,
            broker_use_ssl=broker.use_ssl,
            broker_transport=broker.transport,
            broker_connection_timeout=_SOCKET_TIMEOUT_S,
            task_create_missing_queue_type=queue_type,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="berlin-client-enqueue")
        self._producer: Any = None
        self._batches: Batcher[_Sending, None] = Batcher(
            self._hand_over, at_most=_AT_ONCE, closed=closed
        )

    async def enqueue(self, job_id: str, job: dict[str, Any], *, timeout_s: float) -> None:
        """Send one job. Raises :class:`NotSent`, or :class:`MaybeSent` if the outcome is unknown,
        and ``InvalidJob`` for a message that is too large for RabbitMQ.

        Bounded: by ``timeout_s`` until its turn comes, and by socket timeouts from then on.
        """
        deadline = time.monotonic() + timeout_s
        await self._batches.ask(_Sending(job_id, job, deadline, copy_context()))

    async def aclose(self) -> None:
        """Close the connection; waits for what is being sent."""
        await self._batches.aclose()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    async def _hand_over(self, batch: list[_Sending]) -> list[Exception | None]:
        # Handing a message to another thread costs as much as sending it.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._send_all, batch)

    def _send_all(self, batch: list[_Sending]) -> list[Exception | None]:
        outcomes: list[Exception | None] = []
        for sending in batch:
            if outcomes and isinstance(outcomes[-1], Unavailable):
                # The broker has just failed: no timeout for each job in the batch.
                outcomes.append(NotSent(str(outcomes[-1])))
                continue
            try:
                # In the caller's context: instrumentation of Celery reads it too.
                sending.context.run(self._send, sending)
            except Exception as error:  # noqa: BLE001  # its caller gets it
                outcomes.append(error)
            else:
                outcomes.append(None)
        return outcomes

    def _send(self, sending: _Sending) -> None:
        fresh = self._producer is None
        try:
            self._try(sending)
        except MaybeSent:
            # A connection that lay idle may have been cut meanwhile. Sending twice does no
            # harm: of two messages with one job ID a worker drops the second.
            if fresh:
                raise
            self._try(sending)

    def _try(self, sending: _Sending) -> None:
        if time.monotonic() >= sending.deadline:
            raise NotSent(f"the broker at {self._where} is too slow to take the job")
        connected = False
        try:
            producer = self._connected()
            connected = True
            self._app.send_task(
                names.TASK,
                args=[sending.job],
                task_id=sending.job_id,
                producer=producer,
                add_to_parent=False,
                confirm_timeout=_SOCKET_TIMEOUT_S,
                headers=tracing.inject(),
                **MESSAGE,
            )
        except (OperationalError, OSError) as error:
            self._disconnect()
            message = f"the broker at {self._where} {_problem(error)}"
            raise (MaybeSent if connected else NotSent)(message) from error
        except AMQPError as error:
            self._disconnect()  # RabbitMQ has closed the channel, or the connection
            if "message size" in str(error):
                raise InvalidJob(_TOO_LARGE) from error
            refused = "message" if connected else "connection"
            raise NotSent(f"the broker at {self._where} refuses the {refused} ({error})") from error

    def _connected(self) -> Any:
        if self._producer is None:
            # The URL is named here: CELERY_BROKER_URL overrides that of the app's configuration.
            connection = self._app.connection_for_write(self._url)
            connection.ensure_connection(
                max_retries=1, interval_start=0.2, timeout=_SOCKET_TIMEOUT_S
            )
            self._producer = self._app.amqp.Producer(connection, auto_declare=False)
        return self._producer

    def _disconnect(self) -> None:
        if self._producer is not None:
            connection, self._producer = self._producer.connection, None
            with contextlib.suppress(OperationalError, OSError):
                connection.release()


def _problem(error: BaseException) -> str:
    cause = error.__cause__ or error
    return refusal(cause) or f"does not take the job ({type(cause).__name__})"
