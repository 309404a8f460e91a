"""The asynchronous client."""

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar

from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_schemas.shards import shard_of
from berlin_worker.client import records
from berlin_worker.client.enqueue import Enqueuer
from berlin_worker.client.redis_stream import RedisStream
from berlin_worker.client.shard import Shard
from berlin_worker.client.stream import Stream
from berlin_worker.client.submission import Submission
from berlin_worker.client.surface import AsyncSurface
from berlin_worker.client.values import ANOTHER_LOOP, CLOSED, NO_LOOP, JobStatus, Options
from berlin_worker.config.checked_urls import broker_address, redis_address
from berlin_worker.config.urls import broker_of
from berlin_worker.errors import ClientError, Unavailable
from berlin_worker.settings import Settings
from berlin_worker.storage import redis_errors
from berlin_worker.storage.sharding.marks import on_shard

T = TypeVar("T")


class AsyncClient(AsyncSurface):
    """Submits jobs and follows them, in one event loop.

    What is not given comes from ``settings``, and those from the environment (``REDIS_URL``,
    ``CELERY_BROKER_URL``, ``WORKER_EVENT_SHARDS``); a ``redis_url`` that is given holds all
    events, unless ``event_shards`` are given too. However many jobs are followed, they share
    one connection to each event store. Nothing is connected before it is needed; close
    it by ``async with`` or :meth:`aclose`. Every method raises
    :class:`~berlin_worker.errors.Unavailable` if Redis or the broker does not answer, and
    :class:`~berlin_worker.errors.SettingsError` if the workers have other event stores. A URL
    that cannot be used is a ``SettingsError`` at once.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        broker_url: str | None = None,
        *,
        event_shards: Sequence[str] = (),
        settings: Settings | None = None,
        options: Options | None = None,
    ) -> None:
        self._settings = settings or Settings.from_env()
        tls = self._settings.redis_tls
        self._redis_url = redis_address(redis_url or self._settings.redis_url, "redis_url", tls)
        given = event_shards or ((redis_url,) if redis_url else self._settings.shards)
        urls = [redis_address(url, "event_shards", tls) for url in given]
        other = broker_url or _other_broker(self._settings)
        self._broker_url = (
            broker_address(other, "broker_url", tls)
            if other
            else broker_of(self._redis_url, "redis_url")
        )
        self._options = options or Options()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._owner: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._closed = False
        self._sharded = tuple(urls) != (self._redis_url,)
        make = partial(
            Shard,
            enqueuer=lambda: self._enqueuer,
            options=self._options,
            record_ttl_s=self._settings.queue_ttl_s,
        )
        if self._sharded:
            count = len(urls)
            self._home = make(self._redis_url, expected={names.SHARDS: str(count)})
            self._shards = [
                make(url, expected={names.SHARD: on_shard(place, count)}, home=self._home)
                for place, url in enumerate(urls)
            ]
        else:
            self._home = make(self._redis_url, expected={names.SHARDS: None, names.SHARD: None})
            self._shards = [self._home]

    async def cancel(self, job_id: str, reason: str | None = None) -> None:
        self._enter()
        shard, state = self._shard(job_id), names.state_key(job_id)
        message: dict[str, str | int] = {"cancel": job_id}
        if reason is not None:
            message["reason"] = reason
        if self._home.database:  # else the flag alone says whose job it is
            message["fleet"] = self._home.database
        command = (names.CONTROL_CHANNEL, json.dumps(message))
        await shard.check()
        async with shard.redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(state, "cancel", "1")
            pipeline.expire(state, self._settings.queue_ttl_s, nx=True)
            if not self._sharded:
                pipeline.publish(*command)
            with _naming(job_id):
                await self._asked(pipeline.execute, shard.where)
        if self._sharded:
            with _naming(job_id):
                await self._asked(lambda: self._home.redis.publish(*command), self._home.where)

    async def status(self, job_id: str) -> JobStatus:
        self._enter()
        shard = self._shard(job_id)
        await shard.check()
        with _naming(job_id):
            return await self._asked(lambda: records.status(shard.redis, job_id), shard.where)

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

        async def of(shard: Shard) -> list[JobStatus]:
            await shard.check()
            return await self._asked(
                lambda: records.newest(
                    shard.redis, tenant=tenant, status=status, limit=limit, before=place
                ),
                shard.where,
            )

        found = await asyncio.gather(*(of(shard) for shard in self._shards))
        return sorted(itertools.chain(*found), key=records.place_of, reverse=True)[:limit]

    async def aclose(self) -> None:
        if self._closed:
            return
        self._enter()
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        for store in {*self._shards, self._home}:
            await store.aclose()
        if "_enqueuer" in vars(self):
            await vars(self).pop("_enqueuer").aclose()

    def _stream(
        self,
        job_id: str,
        after: int = 0,
        *,
        wait_for_start_s: float | None = None,
        submission: Submission | None = None,
        raw: bool = False,
    ) -> Stream:
        self._enter()
        options = self._options
        if wait_for_start_s is not None:
            options = replace(options, wait_for_start_s=wait_for_start_s)
        return RedisStream(
            job_id,
            after,
            shard=self._shard(job_id),
            options=options,
            submit=None if submission is None else partial(self._accept, submission),
            raw=raw,
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

    def _shard(self, job_id: str) -> Shard:
        return self._shards[shard_of(job_id, len(self._shards))]

    async def _accept(self, submission: Submission) -> None:
        await self._whole(self._write(submission))

    async def _write(self, submission: Submission) -> None:
        shard = self._shard(submission.job_id)
        await shard.check()
        with _naming(submission.job_id):
            await shard.submitter.accept(submission)

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

    async def _asked(self, ask: Callable[[], Awaitable[T]], where: str) -> T:
        try:
            return await ask()
        except (RedisError, OSError) as error:
            raise Unavailable(redis_errors.describe(where, error)) from error

    # Each is made when it is first needed, in the event loop that needs it.

    @cached_property
    def _enqueuer(self) -> Enqueuer:
        return Enqueuer(self._broker_url, self._settings.queue_type)


def _other_broker(settings: Settings) -> str | None:
    """Return the URL of the broker, or ``None`` if it is the same as that of Redis."""
    return settings.broker_url if settings.broker_url != settings.redis_url else None


@contextlib.contextmanager
def _naming(job_id: str) -> Iterator[None]:
    """Let an ``Unavailable`` name the job."""
    try:
        yield
    except Unavailable as error:
        error.job_id = job_id
        raise
