"""The composition root: opens the parts of a worker process in order, and closes them."""

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from celery import Celery, signals
from celery.platforms import EX_FAILURE
from celery.worker import state

from berlin_schemas.shards import shard_of
from berlin_worker.broker import running
from berlin_worker.broker.job_queue import CeleryJobQueue
from berlin_worker.client import queue_depth
from berlin_worker.config.addresses import address
from berlin_worker.jobs.journal import Journal
from berlin_worker.jobs.leases import Leases
from berlin_worker.jobs.quarantine import Quarantine
from berlin_worker.jobs.retry import RetryPolicy
from berlin_worker.jobs.runner import Runner
from berlin_worker.pool import cancel_cause
from berlin_worker.pool.gc_tuning import relaxed_gc
from berlin_worker.providers import served
from berlin_worker.providers.base import Provider, Services
from berlin_worker.providers.defaults import JobDefaults
from berlin_worker.providers.http import open_session
from berlin_worker.settings import Settings
from berlin_worker.storage import cancel_listener, server_check
from berlin_worker.storage.connections import blocking, connect
from berlin_worker.storage.databases import database_of
from berlin_worker.storage.heartbeat import Load, WorkerHeartbeat, this_process
from berlin_worker.storage.job_store import RedisStore
from berlin_worker.storage.sharding.marks import Marks, check_unmarked
from berlin_worker.storage.sharding.parking import Parking
from berlin_worker.storage.sharding.router import Router, ShardRuntime, StrayQueue
from berlin_worker.storage.sharding.store import ShardStore
from berlin_worker.storage.shared_tokens import RedisTokens
from berlin_worker.telemetry.http_endpoint import observed
from berlin_worker.telemetry.liveness import LIVENESS
from berlin_worker.telemetry.stats import Stats
from berlin_worker.telemetry.status import ProcessGauges
from berlin_worker.telemetry.tracer import open_tracer

logger = logging.getLogger(__name__)

_CLOSE_S = 5.0


@contextlib.asynccontextmanager
async def lifespan(app: Celery) -> AsyncIterator[None]:
    """Open the parts that jobs need, in the pool's event loop; close them after the last job.

    Raises ``SettingsError`` for settings that are missing or make no sense.
    """
    settings = Settings.from_env()
    await server_check.check(settings, os.environ)
    async with contextlib.AsyncExitStack() as stack:
        server_url = functools.partial(served.server_url, settings=settings, environ=os.environ)
        tracer = await stack.enter_async_context(open_tracer(os.environ, server_url=server_url))
        control_redis = await stack.enter_async_context(connect(settings.redis_url))
        stores = [
            await stack.enter_async_context(connect(url))
            if url != settings.redis_url
            else control_redis
            for url in settings.shards
        ]
        http = await stack.enter_async_context(open_session(settings))
        job_queue = stack.enter_context(contextlib.closing(CeleryJobQueue(app)))
        stats = Stats(settings.metrics_named_models)
        tokens = RedisTokens(control_redis, settings, stats)
        quarantine = Quarantine()
        provider = served.provider_cache(Services(http, tokens, settings, os.environ), settings)
        shared = _Shared(control_redis, job_queue, provider, quarantine, stats)
        runtimes = [_runtime(settings, shared, store, shard) for shard, store in enumerate(stores)]

        async def discard(job_id: object, reason: str, detail: str, message: bytes) -> None:
            await current.discard(job_id, reason, detail, message)

        ttl_s = settings.queue_ttl_s
        parking = Parking(control_redis, job_queue, count=len(stores), ttl_s=ttl_s, discard=discard)
        current = Router(runtimes, parking if len(runtimes) > 1 else None)
        background = _background(control_redis, current, stores, stats)
        worker_heartbeat = _worker_heartbeat(control_redis, current, stats, settings)
        background["heartbeat"] = worker_heartbeat.beat_forever()
        stack.push_async_callback(worker_heartbeat.deregister)
        if len(runtimes) > 1:
            background["parking"] = parking.bring_back_forever(current.is_away)
        if marks := await _marked(settings, control_redis, stores):
            background["marks"] = marks.write_forever()
        for name, work in background.items():
            stack.push_async_callback(_cancelled, _supervised(name, work))
        inside = ProcessGauges(
            jobs_in_flight=lambda: _jobs_in_flight(current),
            jobs_quarantined=lambda: len(quarantine),
            journal_buffer_bytes=lambda: sum(each.journal.buffered_bytes for each in runtimes),
            journal_limit_bytes=settings.journal_buffer_bytes,
            store_silent_s=lambda: current.silent_s,
            no_token=tokens.problem,
        )
        depth = functools.partial(queue_depth.count, app)
        stack.enter_context(observed(settings, stats, inside, depth, _opener(settings)))
        stack.enter_context(relaxed_gc())
        try:
            with running.serving(current, tracer):
                yield
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await current.drained()


def _opener(settings: Settings) -> Callable[[], redis.Redis]:
    """Return what opens a client for the thread of the metrics."""
    return functools.partial(blocking, settings.redis_url, timeout_s=2.0)


def _background(
    control_redis: redis.asyncio.Redis,
    router: Router,
    stores: Sequence[redis.asyncio.Redis],
    stats: Stats,
) -> dict[str, Coroutine[Any, Any, None]]:
    """Return the work that every worker does beside its jobs, by the name of its task."""
    background: dict[str, Coroutine[Any, Any, None]] = {}
    for shard, runtime in enumerate(router.runtimes):
        background |= {
            f"journal-{shard}": runtime.journal.run(),
            f"renew-{shard}": runtime.leases.renew_forever(),
            f"reap-{shard}": runtime.leases.reap_forever(),
        }
    background["control"] = cancel_listener.listen(
        control_redis,
        router.cancel,
        fleet=database_of(control_redis),
        flagged=cancel_listener.flags(lambda job_id: stores[shard_of(job_id, len(stores))]),
    )
    background["liveness"] = LIVENESS.beat_forever(stats.loop_lag)
    return background


def _worker_heartbeat(
    control_redis: redis.asyncio.Redis, router: Router, stats: Stats, settings: Settings
) -> WorkerHeartbeat:
    return WorkerHeartbeat(
        control_redis,
        this_process(),
        snapshot=stats.snapshot,
        load=lambda: Load(_jobs_in_flight(router), LIVENESS.slots, LIVENESS.draining),
        interval_s=settings.renew_interval_s,
        ttl_s=settings.lease_s,
    )


def _jobs_in_flight(router: Router) -> int:
    return sum(len(runtime.leases) for runtime in router.runtimes)


@dataclass(frozen=True, slots=True)
class _Shared:
    """Parts of the worker that all shards use."""

    control_redis: redis.asyncio.Redis
    job_queue: CeleryJobQueue
    provider: Callable[[str], Provider]
    quarantine: Quarantine
    stats: Stats


def _runtime(
    settings: Settings, shared: _Shared, client: redis.asyncio.Redis, shard: int
) -> ShardRuntime:
    """Build the parts of the worker that belong to one shard."""
    count = len(settings.shards)
    owner = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
    kind = RedisStore if count == 1 else ShardStore
    store = kind.from_settings(client, settings, owner=owner, dead_letters=shared.control_redis)
    # Each shard has its part of the buffer: a slow shard must not fill it for the others.
    buffer_bytes = max(1, settings.journal_buffer_bytes // count)
    database = database_of(client)
    journal = Journal(store, buffer_bytes=buffer_bytes, stats=shared.stats, database=database)
    bell = StrayQueue(shared.job_queue, store, shard=shard, count=count)

    async def discard(job_id: str, reason: str, detail: str, message: bytes) -> None:
        await runtime.runner.discard(job_id, reason, detail, message)

    leases = Leases(
        store,
        lease_s=settings.lease_s,
        renew_interval_s=settings.renew_interval_s,
        reap_interval_s=settings.reap_interval_s,
        job_queue=shared.job_queue if count == 1 else bell,
        discard=discard,
        stats=shared.stats,
    )
    runner = Runner(
        store=store,
        journal=journal,
        leases=leases,
        provider=shared.provider,
        policy=RetryPolicy(settings.max_attempts, settings.retry_base_s, settings.retry_max_s),
        proxies=settings.proxies,
        defaults=JobDefaults(settings.default_provider, settings.default_model),
        cancel_cause=cancel_cause,
        quarantine=shared.quarantine,
    )
    runtime = ShardRuntime(journal, leases, runner)
    if isinstance(store, ShardStore):
        store.is_away = lambda: runtime.away
    return runtime


async def _marked(
    settings: Settings, control_redis: redis.asyncio.Redis, stores: list[redis.asyncio.Redis]
) -> Marks | None:
    """Write the marks of the shards and return them; without shards check that none exist."""
    control_address = address(settings.redis_url)
    if not settings.sharded:
        await check_unmarked(control_redis, control_address)
        return None
    places = [address(url) for url in settings.shards]
    marks = Marks((control_redis, control_address), list(zip(stores, places, strict=True)))
    await marks.write()
    return marks


def _supervised(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            logger.critical(
                "%s has stopped, and so must this worker", name, exc_info=task.exception()
            )
            _stop_worker()

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(ended)
    return task


def _stop_worker() -> None:
    """Drain as at SIGTERM, and exit with a code by which a supervisor sees the failure.

    Not by SIGTERM itself: its handler would set the exit code to 0.
    """
    state.should_stop = EX_FAILURE
    # The pool counts this as the first signal and wakes the main thread, which reads the flag.
    signals.worker_shutting_down.send(sender=None, sig="SIGTERM", how="Warm", exitcode=EX_FAILURE)


async def _cancelled(task: asyncio.Task[None]) -> None:
    # A loop, for one cancellation may get lost: redis-py sends each command by asyncio.wait_for,
    # which before Python 3.12 swallows a cancellation that arrives as the command has been sent.
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
