"""The HTTP port of a worker: metrics and probes, joined to the server that serves them."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from berlin_worker.telemetry.liveness import LIVENESS

if TYPE_CHECKING:
    import redis

    from berlin_worker.settings import Settings
    from berlin_worker.telemetry.stats import Stats
    from berlin_worker.telemetry.status import ProcessGauges

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def observed(
    settings: "Settings",
    stats: "Stats",
    inside: "ProcessGauges",
    queue_depth: "Callable[[], dict[str, int]]",
    open_redis: "Callable[[], redis.Redis]",
) -> Iterator[None]:
    """Serve metrics and probes while the block runs, if ``WORKER_HTTP_PORT`` is set.

    ``queue_depth`` returns the number of messages by state, and blocks; ``open_redis`` opens a
    client, and may block too.

    Runs in the event loop of the jobs. Raises ``SettingsError`` if it cannot listen.
    """
    if settings.http_port is None:
        yield
        return
    # prometheus-client and http.server take a while to import.
    from berlin_worker.telemetry.http_server import serving  # noqa: PLC0415
    from berlin_worker.telemetry.metrics import registry  # noqa: PLC0415
    from berlin_worker.telemetry.status import StatusReporter  # noqa: PLC0415

    LIVENESS.loop.beat()
    LIVENESS.consumer.beat()  # the consumer begins when jobs can run
    observer = StatusReporter(
        LIVENESS,
        inside,
        loop=asyncio.get_running_loop(),
        queue=queue_depth,
        open_redis=open_redis,
        broker_url=settings.broker_url,
        lease_s=settings.lease_s,
    )
    routes = {"/livez": observer.live, "/readyz": observer.ready}
    numbers = registry(stats, observer.read)
    with observer, serving(settings.http_host, settings.http_port, numbers, routes) as port:
        logger.info("metrics and probes are at http://%s:%d", settings.http_host, port)
        yield
