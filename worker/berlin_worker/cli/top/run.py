"""Read the fleet from Redis, and show it."""

import contextlib
import json
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

import click
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from berlin_worker.cli.interrupts import SignalWait
from berlin_worker.cli.keys import single_keys
from berlin_worker.cli.output import print_out
from berlin_worker.cli.preflight import load_settings, open_redis, reason
from berlin_worker.client.fleet_reader import read, topology_of
from berlin_worker.config.addresses import address
from berlin_worker.storage.fleet import Fleet, TopologyRow


def run(*, once: bool, as_json: bool, interval_s: float) -> None:
    """Show the fleet until the user quits."""
    settings = load_settings()
    # Ctrl-C is a way to quit, not an error.
    with open_redis(settings.redis_url) as redis, contextlib.suppress(KeyboardInterrupt):

        def read_fleet() -> Fleet:
            return Fleet.of(read(redis, settings))

        def read_away() -> str:
            found = topology_of(redis, settings)
            return ", ".join(TopologyRow.of(found).away) if found else ""

        first = read_fleet()
        if as_json:
            _print_json(first, read_fleet, interval_s, once=once)
        else:
            source = _Source(read_fleet, read_away, address(settings.redis_url))
            _show(first, source, interval_s, once=once)


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
    """Raise ``SystemExit`` with the exit code of a signal, except for Ctrl-C: a way to quit."""
    if signals.number not in {None, signal.SIGINT}:
        raise SystemExit(signals.exit_code)


class _Source(NamedTuple):
    """The source of the figures. ``away`` returns the names of servers at ``at`` that are away."""

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
