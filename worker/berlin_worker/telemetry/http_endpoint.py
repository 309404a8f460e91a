"""The HTTP port of a worker, put together: numbers, checks, and what serves them."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from berlin_worker.client import queue_depth
from berlin_worker.telemetry.liveness import LIFE

if TYPE_CHECKING:
    from celery import Celery

    from berlin_worker.jobs.quarantine import Suspects
    from berlin_worker.settings import Settings
    from berlin_worker.storage.sharding.router import Router
    from berlin_worker.storage.shared_tokens import RedisTokens
    from berlin_worker.telemetry.stats import Stats

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def observed(
    app: "Celery",
    settings: "Settings",
    router: "Router",
    *,
    stats: "Stats",
    tokens: "RedisTokens",
    suspects: "Suspects",
) -> Iterator[None]:
    """Serve metrics and probes while the block runs, where ``WORKER_HTTP_PORT`` asks for it.

    In the event loop of the jobs. Raises ``SettingsError`` where it cannot listen.
    """
    if settings.http_port is None:
        yield
        return
    # prometheus-client and http.server take a while to import.
    from berlin_worker.telemetry.http_server import serving  # noqa: PLC0415
    from berlin_worker.telemetry.metrics import registry  # noqa: PLC0415
    from berlin_worker.telemetry.status import Inside, Observer  # noqa: PLC0415

    LIFE.loop.give()
    LIFE.consumer.give()  # it begins when the jobs can run
    cores = router.cores
    inside = Inside(
        jobs_in_flight=lambda: sum(len(core.leases) for core in cores),
        suspects_waiting=lambda: len(suspects),
        journal_buffer_bytes=lambda: sum(core.journal.buffered_bytes for core in cores),
        journal_limit_bytes=settings.journal_buffer_bytes,
        store_silent_s=lambda: router.silent_s,
        no_token=tokens.problem,
    )
    observer = Observer(
        LIFE,
        inside,
        loop=asyncio.get_running_loop(),
        queue=functools.partial(queue_depth.count, app),
        redis_url=settings.redis_url,
        broker_url=settings.broker_url,
        lease_s=settings.lease_s,
    )
    routes = {"/livez": observer.live, "/readyz": observer.ready}
    numbers = registry(stats, observer.read)
    with observer, serving(settings.http_host, settings.http_port, numbers, routes) as port:
        logger.info("metrics and probes are at http://%s:%d", settings.http_host, port)
        yield
