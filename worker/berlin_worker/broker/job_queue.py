"""The job queue for the event loop. kombu blocks, so a thread of its own calls it.

A message is a signal only: the record of the job holds the job. The worker that receives a second
message of a job that runs, or has ended, drops it.
"""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from amqp.exceptions import AMQPError
from celery import Celery
from kombu.exceptions import ChannelError, OperationalError

from berlin_schemas import names
from berlin_worker.client.enqueue import MESSAGE
from berlin_worker.client.queue_depth import is_missing_queue
from berlin_worker.telemetry.tracing import from_carrier

T = TypeVar("T")


class CeleryJobQueue:
    """Sends messages by ``app``; raises ``ConnectionError`` while the broker is unreachable."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="job-queue")

    async def requeue(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Put the message of a job on the queue, before all others if the broker can.

        The job has waited once already: behind a long queue it would wait again.
        """
        await self._in_thread(lambda: self._send(job_id, job, from_carrier(trace)))

    async def depth(self) -> int:
        """Return the number of messages that wait on the queue."""
        return await self._in_thread(self._count)

    def close(self) -> None:
        """Stop the thread, without waiting for the call that it runs."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _send(self, job_id: str, job: bytes, trace: dict[str, str]) -> None:
        self._app.send_task(
            names.TASK,
            args=[json.loads(job)],
            task_id=job_id,
            # These come last: the trace of a record, which other clients may write, replaces none.
            headers={**trace, "id": job_id, "task": names.TASK, names.FIRST: True},
            **MESSAGE,
        )

    def _count(self) -> int:
        with self._app.connection_for_write() as connection:
            try:
                declared = connection.default_channel.queue_declare(names.QUEUE, passive=True)
            except (*connection.connection_errors, *connection.channel_errors) as error:
                if isinstance(error, ChannelError) and is_missing_queue(error):
                    return 0  # nothing has been sent yet
                # kombu raises OperationalError for a failed send only, else the driver's errors.
                raise OperationalError(str(error)) from error
            waiting: int = declared.message_count
            return waiting

    async def _in_thread(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        # RabbitMQ reports what it refuses to a later message, and closes the channel. So
        # an error of AMQP says nothing about this job: it is sent again, over another channel.
        except (OperationalError, OSError, AMQPError) as error:
            raise ConnectionError(f"broker: {error}") from error
