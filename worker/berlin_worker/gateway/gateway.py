"""The state that all requests of one gateway share."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.client import AsyncClient
from berlin_worker.client.raw_events import RawEvent
from berlin_worker.errors import ClientError, JobFailed
from berlin_worker.gateway.event_stream import OpenStreams
from berlin_worker.gateway.fleet import CachedFleet
from berlin_worker.gateway.keys import Caller, Keys, Scope, named_models
from berlin_worker.gateway.model_providers import ModelProviders
from berlin_worker.gateway.problems import Problem
from berlin_worker.settings import Settings
from berlin_worker.telemetry.tracing import OFF, Tracer

logger = logging.getLogger(__name__)

_LOOKUP_S: Final = 5.0
_AT_ONCE_S: Final = 0.5


@dataclass(slots=True)
class Gateway:
    """The client, the keys and the open streams of a gateway."""

    client: AsyncClient
    settings: Settings
    keys: Keys
    ticket_secret: bytes
    fleet: CachedFleet
    providers: ModelProviders
    followers: OpenStreams = field(default_factory=OpenStreams)
    """Streams whose readers can continue by a cursor, also at another replica."""
    chats: OpenStreams = field(default_factory=OpenStreams)
    """Requests that cannot be continued. They may finish while the gateway shuts down."""
    tracer: Tracer = OFF
    lookup_s: float = _LOOKUP_S
    """How long a request waits for a log that should exist."""
    callers: Counter[str] = field(default_factory=Counter)
    """The number of requests that wait for each job: a retry may attach to a job."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _leaving: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def origins(self) -> frozenset[str]:
        """The origins whose pages may call the gateway."""
        listed = self.settings.gateway_origins.split(",")
        return frozenset(origin.strip() for origin in listed if origin.strip())

    def check_models(self, caller: Caller, job: Mapping[str, Any]) -> None:
        """Raise a 403 if the key does not allow a model that the job names, also in a fallback."""
        for provider, model in named_models(job):
            served = provider if isinstance(provider, str) else self.settings.default_provider
            if not caller.may_use(served, self.model_of(model)):
                raise Problem(
                    403, "model_not_allowed", "model: the API key does not allow it", param="model"
                )

    async def poll(self, job_id: str, after: int, wait_s: float) -> tuple[list[RawEvent], bool]:
        """Wait ``wait_s`` for events after ``after``; return them, and whether the job is over."""
        async with self.client.stream(job_id, after) as stream:
            try:
                async with asyncio.timeout(wait_s or _AT_ONCE_S):
                    events = await stream.raw_batch()
            except TimeoutError:
                return [], False
            except StopAsyncIteration:
                return [], True
        return events, events[-1].type in TERMINAL_TYPES

    def model_of(self, model: Any) -> str:
        """Return the model that a job names, or the default one."""
        return model if isinstance(model, str) else self.settings.default_model

    async def ended(self, job_id: str) -> None:
        """Wait for the end of a job. Raises ``TimeoutError`` after ``lookup_s``."""
        with contextlib.suppress(JobFailed):
            await self.client.result(job_id, timeout_s=self.lookup_s)

    def cancel_later(self, job_id: str, caller: str = "") -> None:
        """Cancel a job whose caller has gone, unless one waits after WORKER_GATEWAY_ABANDON_S.

        With ``caller``, a retry may have attached at another gateway: then the record names another
        caller, and the job goes on.
        """
        task = asyncio.create_task(self._cancel_later(job_id, caller))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel_later(self, job_id: str, caller: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.gateway_abandon_s):
                await self._leaving.wait()
        if self.callers[job_id] > 0 or (caller and self._leaving.is_set()):
            return
        try:
            if caller and await self.client.attached(job_id) != caller:
                return
            await self.client.cancel(job_id, "the caller has gone")
        except ClientError as error:
            logger.warning("job %s goes on, although its caller has gone: %s", job_id, error)

    async def abandoned(self) -> None:
        """Wait until each abandoned job has been cancelled, or has a caller again."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        """End the waits of :meth:`cancel_later` at once, and close the client."""
        self._leaving.set()
        await self.abandoned()
        await self.providers.aclose()
        await self.client.aclose()


GATEWAY: Final = web.AppKey("gateway", Gateway)
CALLER: Final = web.RequestKey("caller", Caller)
JOB_ID: Final = web.RequestKey("job_id", str)
"""The job that a request has submitted: errors, too, carry its ID in a header."""


def caller_of(request: web.Request) -> Caller:
    """Return the sender of the request, which the middleware has set."""
    return request[CALLER]


def need(request: web.Request, scope: Scope) -> Caller:
    """Return the caller. Raises a 403 if it lacks ``scope``, or has a ticket and names no job."""
    caller = caller_of(request)
    if caller.job_id is not None and "job_id" not in request.match_info:
        raise Problem(403, "forbidden", "a ticket reads one job: use the API key")
    if not caller.may(scope):
        raise Problem(403, "forbidden", f"the API key lacks the scope {scope!r}")
    return caller
