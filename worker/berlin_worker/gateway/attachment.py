"""Callers that wait for the end of a job. A job whose last caller leaves is cancelled."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from aiohttp import web
from pydantic_core import from_json

from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.client.stream import Stream
from berlin_worker.errors import JobIdReused
from berlin_worker.gateway.gateway import GATEWAY, JOB_ID, Gateway
from berlin_worker.gateway.idempotency import may_be_attached
from berlin_worker.gateway.problems import Problem

Events = AsyncGenerator[list[dict[str, Any]] | None, None]
_STOPPING: Final = "the gateway is shutting down: send the request again"


class Attachment:
    """One caller that waits for the events of one job."""

    def __init__(self, gateway: Gateway, stream: Stream) -> None:
        self.job_id: Final = stream.job_id
        self.ended = False
        """Whether the job needs no cancelling."""
        self._gateway = gateway
        self._stream = stream

    async def events(self) -> Events:
        """Yield the events up to the terminal one, and ``None`` for a ping.

        Raises a :class:`Problem` if the job waits too long for a worker, or the gateway stops.
        """
        clock = asyncio.get_running_loop().time
        give_up, started = clock() + self._gateway.settings.gateway_wait_s, False
        async with contextlib.aclosing(self._gateway.chats.batches(self._stream)) as batches:
            async for batch in batches:
                if batch is None:
                    if not started and clock() > give_up:
                        await self._gateway.client.cancel(self.job_id, "no worker took it in time")
                        self.ended = True
                        raise Problem(504, "no_worker", "no worker has taken the job in time")
                    yield None
                    continue
                started = True
                events = [from_json(raw.data) for raw in batch]
                self.ended = events[-1]["type"] in TERMINAL_TYPES
                yield events
        if not self.ended:
            raise Problem(503, "stopping", _STOPPING)


@contextlib.asynccontextmanager
async def attached(
    request: web.Request, job: dict[str, Any], job_id: str | None
) -> AsyncIterator[Attachment]:
    """Submit a job and attach to it, or attach to the one with the same ``Idempotency-Key``.

    If the block ends before the job does, for whatever reason, and no other caller waits, then the
    job is cancelled after WORKER_GATEWAY_ABANDON_S.
    """
    gateway = request.app[GATEWAY]
    stream = gateway.client.submit_and_stream(job, job_id=job_id)
    attachment = Attachment(gateway, stream)
    request[JOB_ID] = stream.job_id
    # Callers at other gateways may attach to a job with a key, too: the last one counts.
    caller_id = secrets.token_hex(8) if may_be_attached(stream.job_id) else ""
    gateway.callers[stream.job_id] += 1
    try:
        async with stream:
            if caller_id:
                await gateway.client.attach(stream.job_id, caller_id)
            yield attachment
    except JobIdReused:
        attachment.ended = True  # that job belongs to another request
        raise
    finally:
        gateway.callers[stream.job_id] -= 1
        if not gateway.callers[stream.job_id]:
            del gateway.callers[stream.job_id]
        if not attachment.ended:
            gateway.cancel_later(stream.job_id, caller_id)
