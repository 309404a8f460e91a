"""Read the fleet from Redis, and show it."""

import contextlib
import functools
import json
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
from kombu.transport.redis import PRIORITY_STEPS, Channel
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from berlin_schemas import names
from berlin_worker.cli.interrupts import SignalWait
from berlin_worker.cli.keys import single_keys
from berlin_worker.cli.output import print_out
from berlin_worker.cli.preflight import TIMEOUT_S, load_settings, open_redis, reason
from berlin_worker.cli.top.fleet import Fleet, FleetReading, TopologyRow
from berlin_worker.config import urls
from berlin_worker.config.addresses import address
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.settings import Settings
from berlin_worker.storage.survey import Survey, survey

if TYPE_CHECKING:
    from redis import Redis

_LISTS: Final = [
    f"{names.QUEUE}{Channel.sep}{step}" if step else names.QUEUE for step in PRIORITY_STEPS
]


def run(*, once: bool, as_json: bool, interval_s: float) -> None:
    """Show the fleet until the user quits."""
    settings = load_settings()
    # Ctrl-C is a way to quit, not an error.
    with open_redis(settings.redis_url) as redis, contextlib.suppress(KeyboardInterrupt):

        def read_fleet() -> Fleet:
            return Fleet.of(read(redis, settings))

        def read_away() -> str:
            found = _survey(redis, settings)
            return ", ".join(TopologyRow.of(found).away) if found else ""

        first = read_fleet()
        if as_json:
            _print_json(first, read_fleet, interval_s, once=once)
        else:
            source = _Source(read_fleet, read_away, address(settings.redis_url))
            _show(first, source, interval_s, once=once)


def read(redis: "Redis", settings: Settings) -> FleetReading:
    """Read workers and queue. Raises redis-py's errors; a broker that is away counts as unknown."""
    seconds, micros = redis.time()
    now_ts = seconds + micros / 1e6
    living: Any = redis.zrangebyscore(names.FLEET, round(now_ts * 1000), "+inf")
    with redis.pipeline(transaction=False) as pipeline:
        for worker in living:
            pipeline.get(names.alive_key(worker))
        pipeline.xlen(names.DEAD_LETTERS)
        *texts, dead_letters = pipeline.execute()
    return FleetReading(
        now_ts=now_ts,
        # A worker may have ended between the two requests.
        statuses=[text for text in texts if text is not None],
        waiting=_waiting(redis, settings),
        dead_letters=dead_letters,
        topology=_survey(redis, settings),
    )


def _survey(redis: "Redis", settings: Settings) -> Survey | None:
    """Return the servers of events and records; ``None`` if that is unknown."""
    try:
        return survey(urls.parse_redis(settings.redis_url, "REDIS_URL"), redis)
    except (RedisError, OSError):
        return None


def _waiting(redis: "Redis", settings: Settings) -> int | None:
    if settings.broker_url == settings.redis_url:
        return _listed(redis)
    if not settings.broker_url:
        return None
    if not urls.is_redis(settings.broker_url):
        return _waiting_elsewhere(settings.broker_url)
    try:
        with open_redis(settings.broker_url) as broker:
            return _listed(broker)
    except (RedisError, OSError):
        return None


def _listed(broker: "Redis") -> int:
    with broker.pipeline(transaction=False) as pipeline:
        for key in _LISTS:
            pipeline.llen(key)
        lengths: list[int] = pipeline.execute()
    return sum(lengths)


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
        "berlin-top",
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
        broker_connection_timeout=TIMEOUT_S,
    )
    return app


def _print_json(
    fleet: Fleet, read_fleet: Callable[[], Fleet], interval_s: float, *, once: bool
) -> None:
    click.echo(json.dumps(fleet.as_json()))
    if once:
        return
    with SignalWait() as signals:
        while not signals.arrived_within(interval_s):
            click.echo(json.dumps(read_fleet().as_json()))
    _leave(signals)


def _leave(signals: SignalWait) -> None:
    """Raise ``SystemExit`` after a signal to end, as shells know it; Ctrl-C is a way to quit."""
    if signals.number not in {None, signal.SIGINT}:
        raise SystemExit(signals.exit_code)


class _Source(NamedTuple):
    """Where the figures come from: ``away`` names the servers of ``at`` that are away."""

    fleet: Callable[[], Fleet]
    away: Callable[[], str]
    at: str


def _show(fleet: Fleet, source: _Source, interval_s: float, *, once: bool) -> None:
    # rich takes 0.1 s to import, and --json does not need it.
    from rich.console import Console  # noqa: PLC0415  # slow to import
    from rich.live import Live  # noqa: PLC0415  # slow to import

    from berlin_worker.cli.top.view import FleetView  # noqa: PLC0415  # imports rich

    console = Console()
    if once or not console.is_interactive or not sys.stdout.isatty():
        with console.capture() as shown:
            console.print(FleetView(fleet))
        # Not by rich, which ends with its own exit code if the reader has closed the pipe.
        print_out(shown.get(), nl=False)
        return
    with (
        SignalWait() as signals,
        single_keys(signals) as keys,
        Live(FleetView(fleet), console=console, screen=True, auto_refresh=False) as live,
    ):
        while not keys.quit_within(interval_s):
            problem = None
            try:
                fleet = source.fleet()
            except (NoPermissionError, AuthenticationError):
                raise
            except (RedisError, OSError) as error:
                at = source.away() or f"Redis at {source.at}"
                problem = f"{at} does not answer; the figures are old: {reason(error)}"
            live.update(FleetView(fleet, problem), refresh=True)
    _leave(signals)
