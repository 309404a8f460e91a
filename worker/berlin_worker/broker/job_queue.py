"""Messages onto the job queue, from the event loop: kombu blocks, so a thread of its own rings.

The message is only the doorbell; what it says stands in the record of the job. A
second message for a job that is at work, or over, is dropped by whoever takes it.
"""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError

from berlin_schemas import names
from berlin_worker.client.enqueue import MESSAGE
from berlin_worker.telemetry.tracing import from_carrier

T = TypeVar("T")


class CeleryJobQueue:
    """Rings by ``app``; raises ``ConnectionError`` while the broker cannot be reached."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="doorbell")

    async def ring(self, job_id: str, job: bytes, trace: bytes = b"") -> None:
        """Put the message of a job on the queue, before all others where the broker can.

        The job has waited its turn already: behind a long queue it would wait again.
        """
        await self._in_thread(lambda: self._send(job_id, job, from_carrier(trace)))

    async def waiting(self) -> int:
        """How many messages wait on the queue."""
        return await self._in_thread(self._count)

    def close(self) -> None:
        """Give the thread back; what it is doing is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _send(self, job_id: str, job: bytes, trace: dict[str, str]) -> None:
        self._app.send_task(
            names.TASK,
            args=[json.loads(job)],
            task_id=job_id,
            # What others have written into a record names no other job and no other task.
            headers={**trace, "id": job_id, "task": names.TASK, names.FIRST: True},
            **MESSAGE,
        )

    def _count(self) -> int:
        with self._app.connection_for_write() as connection:
            try:
                declared = connection.default_channel.queue_declare(names.QUEUE, passive=True)
            except ChannelError:
                return 0  # no such queue: nothing waits on it
            except (*connection.connection_errors, *connection.channel_errors) as error:
                # As sending does; kombu leaves the errors of other calls as the driver's own.
                raise OperationalError(str(error)) from error
            waiting: int = declared.message_count
            return waiting

    async def _in_thread(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except (OperationalError, OSError) as error:
            raise ConnectionError(f"broker: {error}") from error
