"""Run the checks one by one, and print each result at once."""

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from berlin_worker.cli.doctor import checks, provider_checks, shared_server, topology, trial
from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.cli.errors import FAILED
from berlin_worker.cli.output import print_out, printable
from berlin_worker.cli.preflight import (
    allowed_info,
    broker_problem,
    load_settings,
    open_redis,
    redis_problem,
    server_info,
)
from berlin_worker.config import urls
from berlin_worker.config.addresses import address
from berlin_worker.settings import Settings

if TYPE_CHECKING:
    from redis import Redis


_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


def run(*, as_json: bool, login: bool) -> int:
    """Print the result of each check, and return the exit code."""
    settings = load_settings()
    failed = False
    for result in _examine(settings, login=login):
        failed |= result.level == "fail"
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(result)))
        else:
            _print(result)
    return FAILED if failed else 0


def _print(result: CheckResult) -> None:
    mark = click.style(result.level.ljust(4), fg=_COLOURS[result.level])
    print_out(f"{mark}  {result.name.ljust(11)}  {printable(result.message)}")
    if result.hint:
        print_out(" " * 19 + click.style(f"→ {result.hint}", dim=True))


def _examine(settings: Settings, *, login: bool) -> Iterator[CheckResult]:
    yield from map(checks.misspelt, settings.misspelt(os.environ))
    if message := redis_problem(settings.redis_url):
        yield CheckResult("redis", "fail", message, "start Redis, or correct REDIS_URL")
    else:
        yield CheckResult("redis", "ok", address(settings.redis_url))
        yield from topology.examine(settings.redis_url)
        with open_redis(settings.redis_url) as redis:
            if urls.is_cluster(settings.redis_url):
                yield from trial.examine(redis, sharded=True)
            else:
                yield from examine_redis(redis)
            yield from trial.attempted("workers", lambda: _workers(redis, settings))
            yield from shared_server.examine(redis)
    if settings.broker_url != settings.redis_url:
        message = broker_problem(settings)
        hint = "start it, or correct CELERY_BROKER_URL" if message else ""
        if not settings.broker_url:
            hint = "readers need none; without it no job is submitted, and no worker starts"
        yield CheckResult(
            "broker", "fail" if message else "ok", message or address(settings.broker_url), hint
        )
        if message is None and urls.is_redis(settings.broker_url):
            with open_redis(settings.broker_url) as redis:
                for result in _examine_memory(redis):
                    yield dataclasses.replace(result, message=f"broker: {result.message}")
    yield from provider_checks.examine(settings, login=login)


def examine_redis(redis: "Redis") -> Iterator[CheckResult]:
    """Yield the results for a Redis that answers."""
    yield checks.server(server_info(redis))
    yield from _examine_memory(redis)
    yield from trial.attempted("clock", lambda: _clock(redis))
    yield from trial.examine(redis)


def _examine_memory(redis: "Redis") -> Iterator[CheckResult]:
    """Yield whether a Redis keeps its jobs, logs and queue."""
    memory = allowed_info(redis, "memory")
    yield checks.eviction(memory)
    yield checks.memory(memory)
    yield checks.persistence(allowed_info(redis, "persistence"))


def _clock(redis: "Redis") -> CheckResult:
    before_ts = time.time()
    seconds, micros = redis.time()
    return checks.clock(seconds + micros / 1e6, before_ts, time.time())


def _workers(redis: "Redis", settings: Settings) -> CheckResult:
    # Counted by `berlin top`, so that both show one number.
    from berlin_worker.client.fleet_reader import read  # noqa: PLC0415  # slow to import
    from berlin_worker.storage.fleet import Fleet  # noqa: PLC0415  # slow to import

    fleet = Fleet.of(read(redis, settings))
    if "workers" in fleet.unread:
        return CheckResult("workers", "warn", fleet.unread_text, "bring that node back")
    return checks.workers(len(fleet.workers) + fleet.unreadable, fleet.waiting)
