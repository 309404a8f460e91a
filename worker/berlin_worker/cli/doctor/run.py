"""Run the checks one by one, and print each result at once."""

import dataclasses
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import click
from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.cli.doctor import checks, provider_checks, shared_server, topology
from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.cli.errors import FAILED
from berlin_worker.cli.output import print_out, printable
from berlin_worker.cli.preflight import (
    TIMEOUT_S,
    broker_problem,
    load_settings,
    open_redis,
    reason,
    redis_problem,
    server_info,
)
from berlin_worker.config import urls
from berlin_worker.config.addresses import address
from berlin_worker.settings import Settings

if TYPE_CHECKING:
    from redis import Redis


_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}
_TRIAL_TTL_S: Final = 60

# The commands that the scripts of a worker call, on keys that are deleted at once. An ACL is
# applied to every command, key and channel in a script.
# Each script has keys of one slot, as on a cluster it must.
_TRIAL_JOB: Final = """
redis.call('HSET', KEYS[1], 'status', 'doctor')
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], '1-0', 'event', '{}')
redis.call('EXPIRE', KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[2], 'doctor')
redis.call('TIME')
redis.call('DEL', KEYS[1], KEYS[2])
return 1
"""
_TRIAL_INDEX: Final = """
redis.call('ZADD', KEYS[1], 1, 'doctor')
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[1])
return 1
"""
_TRIAL_STRING: Final = """
redis.call('SET', KEYS[1], 'doctor', 'EX', ARGV[1])
redis.call('DEL', KEYS[1])
return 1
"""


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
                yield from _examine_use(redis)
            else:
                yield from examine_redis(redis)
            yield from _attempted("workers", lambda: _workers(redis, settings))
            yield from shared_server.examine(redis)
    if settings.broker_url != settings.redis_url:
        message = broker_problem(settings)
        hint = "start it, or correct CELERY_BROKER_URL" if message else ""
        yield CheckResult(
            "broker", "fail" if message else "ok", message or address(settings.broker_url), hint
        )
        if message is None and urls.is_redis(settings.broker_url):
            with open_redis(settings.broker_url) as redis:
                for result in _examine_memory(redis):
                    yield dataclasses.replace(result, message=f"broker: {result.message}")
    yield from provider_checks.examine_providers(settings)
    if login:
        yield from provider_checks.examine_logins(settings)


def examine_redis(redis: "Redis") -> Iterator[CheckResult]:
    """Yield the results for a Redis that answers."""
    yield checks.server(server_info(redis))
    yield from _examine_memory(redis)
    yield from _attempted("clock", lambda: _clock(redis))
    yield from _examine_use(redis)


def _examine_use(redis: "Redis") -> Iterator[CheckResult]:
    """Yield whether scripts and channels work, by keys of a trial."""
    yield from _attempted("rights", lambda: _rights(redis))
    yield from _attempted("pub/sub", lambda: _round_trip(redis))


def _examine_memory(redis: "Redis") -> Iterator[CheckResult]:
    """Yield whether a Redis keeps its jobs, logs and queue."""
    memory = _info(redis, "memory")
    yield checks.eviction(memory)
    yield checks.memory(memory)
    yield checks.persistence(_info(redis, "persistence"))


def _attempted(name: str, check: Callable[[], CheckResult]) -> Iterator[CheckResult]:
    try:
        yield check()
    except (RedisError, OSError) as error:
        yield checks.refusal(name, error, reason(error))


def _info(redis: "Redis", section: str) -> Mapping[str, Any]:
    try:
        found: Any = redis.info(section)
    except RedisError:  # forbidden, or fakeredis, which closes the connection after an error
        redis.connection_pool.disconnect()
        return {}
    return found if isinstance(found, Mapping) else {}


def _clock(redis: "Redis") -> CheckResult:
    before_ts = time.time()
    seconds, micros = redis.time()
    return checks.clock(seconds + micros / 1e6, before_ts, time.time())


def _rights(redis: "Redis") -> CheckResult:
    trial = f"doctor-{secrets.token_hex(8)}"
    state, log = names.state_key(trial), names.log_key(trial)
    ttl_s = str(_TRIAL_TTL_S)
    redis.eval(_TRIAL_JOB, 2, state, log, ttl_s, names.channel(trial))
    redis.eval(_TRIAL_INDEX, 1, f"worker:{trial}", ttl_s)
    redis.eval(_TRIAL_STRING, 1, f"token:doctor:{trial}", ttl_s)
    redis.script_load("return 1")
    redis.hmget(state, ["status"])
    redis.xrange(log)
    redis.zcard(names.DUE_KEYS[0])
    redis.publish(names.CONTROL_CHANNEL, json.dumps({"cancel": trial}))
    return CheckResult("rights", "ok", "scripts, keys and channels are allowed")


def _round_trip(redis: "Redis") -> CheckResult:
    channel = names.channel(f"doctor-{secrets.token_hex(8)}")
    with redis.pubsub() as subscription:  # type: ignore[no-untyped-call]  # redis-py
        subscription.subscribe(channel)
        give_up = time.monotonic() + TIMEOUT_S
        while (left := give_up - time.monotonic()) > 0:
            message = subscription.get_message(timeout=left)
            if message and message["type"] == "subscribe":
                redis.publish(channel, "doctor")
            elif message and message["type"] == "message":
                return CheckResult("pub/sub", "ok", "messages arrive")
    hint = "REDIS_URL must name one primary, not a proxy without pub/sub"
    return CheckResult("pub/sub", "fail", "a published message did not arrive", hint)


def _workers(redis: "Redis", settings: Settings) -> CheckResult:
    # Counted by `berlin top`, so that both show one number.
    from berlin_worker.client.fleet_reader import read  # noqa: PLC0415  # slow to import
    from berlin_worker.storage.fleet import Fleet  # noqa: PLC0415  # slow to import

    fleet = Fleet.of(read(redis, settings))
    return checks.workers(len(fleet.workers) + fleet.unreadable, fleet.waiting)
