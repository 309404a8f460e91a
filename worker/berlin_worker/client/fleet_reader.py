"""Reads the fleet: the workers' statuses, and the depth of the queue. Blocks."""

import functools
import time
from typing import TYPE_CHECKING, Any, Final

from kombu.transport.redis import PRIORITY_STEPS, Channel
from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.config import urls
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.settings import Settings
from berlin_worker.storage import connections
from berlin_worker.storage.blocking_cluster import time_at
from berlin_worker.storage.fleet import FleetReading
from berlin_worker.storage.redis_errors import is_temporary, values, wrong_type_is_missing
from berlin_worker.storage.survey import Survey, survey

if TYPE_CHECKING:
    from redis import Redis

_TIMEOUT_S: Final = 3.0
_LISTS: Final = [
    f"{names.QUEUE}{Channel.sep}{step}" if step else names.QUEUE for step in PRIORITY_STEPS
]


def read(redis: "Redis", settings: Settings) -> FleetReading:
    """Read workers and queue. Raises redis-py's errors; a broker that is away counts as unknown.

    If some nodes of a cluster answer, what the others have is left out, and named as unread.
    """
    topology = topology_of(redis, settings)
    unread = []
    statuses: list[str] = []
    dead_letters: int | None = 0
    try:
        now_ts, statuses = _statuses(redis)
    except (RedisError, OSError) as error:
        if not _is_partly_away(error, topology):
            raise
        now_ts = time.time()
        unread.append("workers")
    try:
        with wrong_type_is_missing():
            found: Any = redis.xlen(names.DEAD_LETTERS)
            dead_letters = found
    except (RedisError, OSError) as error:
        if not _is_partly_away(error, topology):
            raise
        dead_letters = None
        unread.append("dead_letters")
    return FleetReading(
        now_ts=now_ts,
        statuses=statuses,
        waiting=_waiting(redis, settings),
        dead_letters=dead_letters,
        topology=topology,
        unread=tuple(unread),
    )


def _statuses(redis: "Redis") -> tuple[float, list[str]]:
    """Return the time of the server that has the statuses, and those of living workers."""
    seconds, micros = time_at(redis, names.FLEET)
    now_ts = seconds + micros / 1e6
    living: Any = []
    with wrong_type_is_missing():
        living = redis.zrangebyscore(names.FLEET, round(now_ts * 1000), "+inf")
    with redis.pipeline(transaction=False) as pipeline:
        for worker in living:
            pipeline.get(names.alive_key(worker))
        texts = values(pipeline.execute(raise_on_error=False))
    # A worker may have ended between the two requests.
    return now_ts, [text for text in texts if text is not None]


def _is_partly_away(error: Exception, topology: Survey | None) -> bool:
    """Return whether one node of a cluster does not answer, but another does."""
    return topology is not None and topology.kind == "cluster" and is_temporary(error)


def topology_of(redis: "Redis", settings: Settings) -> Survey | None:
    """Return the servers of events and records; ``None`` if that is unknown."""
    try:
        return survey(urls.parse_redis(settings.redis_url, "REDIS_URL"), redis)
    except (RedisError, OSError):
        return None


def _waiting(redis: "Redis", settings: Settings) -> int | None:
    if settings.broker_url in {"", settings.redis_url}:
        return _listed(redis)
    if not urls.is_redis(settings.broker_url):
        return _waiting_elsewhere(settings.broker_url)
    try:
        with connections.blocking(settings.broker_url, timeout_s=_TIMEOUT_S) as broker:
            return _listed(broker)
    except (RedisError, OSError):
        return None


def _listed(broker: "Redis") -> int:
    with broker.pipeline(transaction=False) as pipeline:
        for key in _LISTS:
            pipeline.llen(key)
        lengths = values(pipeline.execute(raise_on_error=False))
    return sum(length or 0 for length in lengths)


def _waiting_elsewhere(broker_url: str) -> int | None:
    # Celery takes 0.25 s to import, and only RabbitMQ needs it.
    from berlin_worker.client import queue_depth  # noqa: PLC0415  # slow to import

    try:
        return queue_depth.count(_app(broker_url))["waiting"]
    except Exception:  # noqa: BLE001  # each broker's client has its own errors; the depth is unknown then
        return None


@functools.cache
def _app(broker_url: str) -> Any:
    from celery import Celery  # noqa: PLC0415  # slow to import

    from berlin_worker.config.celery_loader import SettingsLoader  # noqa: PLC0415  # loads Celery

    app = Celery(
        "berlin-fleet",
        set_as_current=False,
        fixups=[],
        loader=SettingsLoader,
        backend="disabled://",
    )
    broker = for_kombu(broker_url)
    app.conf.update(
        broker_url=broker.url,
        broker_write_url=broker.url,  # Celery would take CELERY_BROKER_URL as it stands
        broker_transport_options=broker.transport_options,
        broker_use_ssl=broker.use_ssl,
        broker_transport=broker.transport,
        broker_connection_timeout=_TIMEOUT_S,
    )
    return app
