"""The asynchronous client."""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.client import records
from berlin_worker.client.enqueue import Enqueuer
from berlin_worker.client.event_store import EventStore
from berlin_worker.client.redis_stream import RedisStream
from berlin_worker.client.stream import Stream
from berlin_worker.client.submission import Submission
from berlin_worker.client.surface import AsyncSurface
from berlin_worker.client.values import ANOTHER_LOOP, CLOSED, NO_LOOP, JobStatus, Options
from berlin_worker.config.checked_urls import broker_address, redis_address
from berlin_worker.config.urls import broker_of
from berlin_worker.errors import ClientError, Unavailable
from berlin_worker.settings import Settings
from berlin_worker.storage import redis_errors

if TYPE_CHECKING:
    from redis.asyncio import RedisCluster

T = TypeVar("T")


class AsyncClient(AsyncSurface):
    """Submits jobs and follows them, in one event loop.

    Missing arguments come from ``settings``, and missing ``settings`` from the environment
    (``REDIS_URL``, ``CELERY_BROKER_URL``). However many jobs are followed, they share one
    connection. Nothing is connected before it is needed; close it by ``async with`` or
    :meth:`aclose`. A reader of a Redis Cluster needs no broker; submitting needs one besides the
    cluster. Every method raises :class:`~berlin_worker.errors.Unavailable` if Redis or the broker
    does not answer. A URL that cannot be used is a :class:`~berlin_worker.errors.SettingsError` at
    once.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        broker_url: str | None = None,
        *,
        settings: Settings | None = None,
        options: Options | None = None,
    ) -> None:
        self._settings = settings or Settings.from_env(needs_broker=False)
        self.max_job_bytes = self._settings.max_job_bytes
        tls = self._settings.redis_tls
        self._redis_url = redis_address(redis_url or self._settings.redis_url, "redis_url", tls)
        other = broker_url or _other_broker(self._settings)
        self._broker_url = broker_address(other, "broker_url", tls) if other else ""
        self._options = options or Options()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._owner: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._closed = False
        self._store = EventStore(
            self._redis_url,
            enqueuer=lambda: self._enqueuer,
            options=self._options,
            record_ttl_s=self._settings.queue_ttl_s,
        )

    async def cancel(self, job_id: str, reason: str | None = None) -> None:
        self._enter()
        store, state = self._store, names.state_key(job_id)
        message: dict[str, str | int] = {"cancel": job_id}
        if reason is not None:
            message["reason"] = reason
        if store.database:  # without it the cancel flag in the record decides
            message["fleet"] = store.database
        command = (names.CONTROL_CHANNEL, json.dumps(message))
        if store.is_cluster:
            with _naming(job_id):
                await self._asked(lambda: self._cancel_on_cluster(state, command))
            return
        async with store.redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(state, "cancel", "1")
            pipeline.expire(state, self._settings.queue_ttl_s, nx=True)
            pipeline.publish(*command)
            with _naming(job_id):
                await self._asked(pipeline.execute)

    async def _cancel_on_cluster(self, state: str, command: tuple[str, str]) -> None:
        # No transaction: redis-py cannot send one for a slot that moves. The flag comes first,
        # since workers read it when they get the message.
        redis = self._store.redis
        await redis.hset(state, "cancel", "1")
        await redis.expire(state, self._settings.queue_ttl_s, nx=True)
        # Any node passes it to all: that of the job has just answered.
        node = cast("RedisCluster", redis).get_node_from_key(state)
        await redis.execute_command("PUBLISH", *command, target_nodes=node)  # type: ignore[no-untyped-call]  # redis-py

    async def attach(self, job_id: str, caller: str) -> None:
        """Write into the record of a job which caller waits for it; the last call counts."""
        self._enter()
        state = names.state_key(job_id)
        with _naming(job_id):
            await self._asked(lambda: self._store.redis.hset(state, "caller", caller))
            await self._asked(
                lambda: self._store.redis.expire(state, self._settings.queue_ttl_s, nx=True)
            )

    async def attached(self, job_id: str) -> str | None:
        """Return the caller of the last :meth:`attach` to a job, ``None`` if there was none."""
        self._enter()
        with _naming(job_id):
            return await self._asked(lambda: records.attached(self._store.redis, job_id))

    async def submitted_later(self, job_id: str) -> int | None:
        """Return how many jobs of the index are newer than a job; ``None`` if it is not listed."""
        self._enter()
        with _naming(job_id):
            return await self._asked(lambda: records.submitted_later(self._store.redis, job_id))

    async def status(self, job_id: str) -> JobStatus:
        self._enter()
        with _naming(job_id):
            return await self._asked(
                lambda: records.status(self._store.redis, self._store.read, job_id)
            )

    async def list(
        self,
        *,
        tenant: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: JobStatus | None = None,
    ) -> "list[JobStatus]":
        self._enter()
        if limit < 1:
            raise ValueError("limit is how many jobs are listed at the most: 1 or more")
        place = None if before is None else records.place_of(before)
        return await self._asked(
            lambda: records.newest(
                self._store.redis,
                self._store.read,
                tenant=tenant,
                status=status,
                limit=limit,
                before=place,
            )
        )

    async def aclose(self) -> None:
        if self._closed:
            return
        self._enter()
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._store.aclose()
        if "_enqueuer" in vars(self):
            await vars(self).pop("_enqueuer").aclose()

    def _stream(
        self,
        job_id: str,
        after: int = 0,
        *,
        wait_for_start_s: float | None = None,
        submission: Submission | None = None,
    ) -> Stream:
        self._enter()
        if submission is not None:
            self._queue_url()  # raised before anything is subscribed
        options = self._options
        if wait_for_start_s is not None:
            options = replace(options, wait_for_start_s=wait_for_start_s)
        return RedisStream(
            job_id,
            after,
            store=self._store,
            options=options,
            submit=None if submission is None else partial(self._accept, submission),
        )

    def _enter(self) -> None:
        # The client belongs to the event loop that uses it first.
        if self._closed:
            raise ClientError(CLOSED)
        try:
            caller = asyncio.get_running_loop(), os.getpid()
        except RuntimeError:
            raise ClientError(NO_LOOP) from None
        if self._owner is None:
            self._owner = caller
        elif self._owner != caller:
            raise ClientError(ANOTHER_LOOP)

    async def _accept(self, submission: Submission) -> None:
        await self._whole(self._write(submission))

    async def _write(self, submission: Submission) -> None:
        with _naming(submission.job_id):
            await self._store.submitter.accept(submission)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` to its end, even if the caller is cancelled: nothing stays half done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may have been cancelled: then nothing awaits it

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            return await ask()
        except (RedisError, OSError) as error:
            raise Unavailable(redis_errors.describe(self._store.where, error)) from error

    # Each is made when it is first needed, in the event loop that needs it.

    @cached_property
    def _enqueuer(self) -> Enqueuer:
        return Enqueuer(self._queue_url(), self._settings.queue_type)

    def _queue_url(self) -> str:
        # Readers need no queue, so a cluster without a broker is refused only here.
        return self._broker_url or broker_of(self._redis_url, "redis_url")


def _other_broker(settings: Settings) -> str | None:
    """Return the URL of the broker, or ``None`` if it is the same as that of Redis, or not set."""
    return (settings.broker_url or None) if settings.broker_url != settings.redis_url else None


@contextlib.contextmanager
def _naming(job_id: str) -> Iterator[None]:
    """Let an ``Unavailable`` name the job."""
    try:
        yield
    except Unavailable as error:
        error.job_id = job_id
        raise
