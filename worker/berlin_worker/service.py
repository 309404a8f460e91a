"""The composition root: opens the parts of a worker process in order, and closes them."""

import asyncio
import contextlib
import functools
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import redis.asyncio
from celery import Celery, signals
from celery.platforms import EX_FAILURE
from celery.worker import state

from berlin_worker.broker import running
from berlin_worker.broker.job_queue import CeleryJobQueue
from berlin_worker.client import queue_depth
from berlin_worker.jobs.dispatcher import Dispatcher
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
from berlin_worker.storage.cooldowns import RedisCooldowns
from berlin_worker.storage.databases import database_of
from berlin_worker.storage.heartbeat import Load, WorkerHeartbeat, this_process
from berlin_worker.storage.job_store import RedisStore
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
        client = await stack.enter_async_context(connect(settings.redis_url))
        http = await stack.enter_async_context(open_session(settings))
        job_queue = stack.enter_context(contextlib.closing(CeleryJobQueue(app)))
        stats = Stats(settings.metrics_named_models)
        tokens = RedisTokens(client, settings, stats)
        quarantine = Quarantine()
        provider = served.provider_cache(Services(http, tokens, settings, os.environ), settings)
        stats.default_models = served.default_models(settings, os.environ, provider)
        parts = _job_parts(
            settings,
            client,
            job_queue=job_queue,
            provider=provider,
            quarantine=quarantine,
            stats=stats,
        )
        stack.push_async_callback(parts.store.aclose)
        background = _background(client, parts, stats)
        worker_heartbeat = _worker_heartbeat(client, parts.leases, stats, settings)
        background["heartbeat"] = worker_heartbeat.beat_forever()
        stack.push_async_callback(worker_heartbeat.deregister)
        for name, work in background.items():
            stack.push_async_callback(_cancelled, _supervised(name, work))
        inside = ProcessGauges(
            jobs_in_flight=lambda: len(parts.leases),
            jobs_quarantined=lambda: len(quarantine),
            journal_buffer_bytes=lambda: parts.journal.buffered_bytes,
            journal_limit_bytes=settings.journal_buffer_bytes,
            store_silent_s=lambda: parts.leases.silent_s,
            no_token=tokens.problem,
        )
        depth = functools.partial(queue_depth.count, app)
        stack.enter_context(observed(settings, stats, inside, depth, _opener(settings)))
        stack.enter_context(relaxed_gc())
        try:
            dispatcher = Dispatcher(parts.runner, parts.leases, parts.journal)
            with running.serving(dispatcher, tracer):
                yield
        finally:
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await dispatcher.drained()
                    await parts.store.update_index()


@dataclass(frozen=True, slots=True)
class _JobParts:
    """The parts that the jobs of this process run on."""

    store: RedisStore
    journal: Journal
    leases: Leases
    runner: Runner


def _opener(settings: Settings) -> Callable[[], redis.Redis]:
    """Return a function that opens a client for the thread of the metrics."""
    return functools.partial(blocking, settings.redis_url, timeout_s=2.0)


def _background(
    client: redis.asyncio.Redis, parts: _JobParts, stats: Stats
) -> dict[str, Coroutine[Any, Any, None]]:
    """Return the work that every worker does beside its jobs, by the name of its task."""
    return {
        "journal": parts.journal.run(),
        "renew": parts.leases.renew_forever(),
        "reap": parts.leases.reap_forever(),
        "control": cancel_listener.listen(
            client,
            parts.runner.cancel,
            fleet=database_of(client),
            flagged=cancel_listener.flags(client),
        ),
        "liveness": LIVENESS.beat_forever(stats.loop_lag),
    }


def _worker_heartbeat(
    client: redis.asyncio.Redis, leases: Leases, stats: Stats, settings: Settings
) -> WorkerHeartbeat:
    return WorkerHeartbeat(
        client,
        this_process(),
        snapshot=stats.snapshot,
        load=lambda: Load(len(leases), LIVENESS.slots, LIVENESS.draining),
        interval_s=settings.renew_interval_s,
        ttl_s=settings.lease_s,
    )


def _job_parts(
    settings: Settings,
    client: redis.asyncio.Redis,
    *,
    job_queue: CeleryJobQueue,
    provider: Callable[[str], Provider],
    quarantine: Quarantine,
    stats: Stats,
) -> _JobParts:
    owner = secrets.token_hex(4)  # short: each batch of events names it
    store = RedisStore.from_settings(client, settings, owner, stats.store_nodes)
    buffer_bytes = settings.journal_buffer_bytes
    journal = Journal(
        store,
        buffer_bytes=buffer_bytes,
        stats=stats,
        database=database_of(client),
        node_of=store.nodes.node_of if store.nodes else None,
        nodes=store.nodes.names if store.nodes else tuple,
    )

    async def discard(job_id: str, reason: str, detail: str, message: bytes) -> None:
        await runner.discard(job_id, reason, detail, message, is_record=True)

    leases = Leases(
        store,
        lease_s=settings.lease_s,
        renew_interval_s=settings.renew_interval_s,
        reap_interval_s=settings.reap_interval_s,
        job_queue=job_queue,
        discard=discard,
        stats=stats,
        max_job_bytes=settings.max_job_bytes,
        nodes=store.nodes,
    )
    runner = Runner(
        store=store,
        journal=journal,
        leases=leases,
        provider=provider,
        policy=RetryPolicy(settings.max_attempts, settings.retry_base_s, settings.retry_max_s),
        proxies=settings.proxies,
        defaults=JobDefaults(settings.default_provider, settings.default_model),
        cancel_cause=cancel_cause,
        quarantine=quarantine,
        max_job_bytes=settings.max_job_bytes,
        read_on_s=settings.drain_cancelled_usage_s,
        cooldowns=RedisCooldowns(client),
    )
    return _JobParts(store, journal, leases, runner)


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
    # A loop, since one cancellation may get lost: redis-py sends each command by asyncio.wait_for.
    # Before Python 3.12 that swallows a cancellation that arrives as the command has been sent.
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
