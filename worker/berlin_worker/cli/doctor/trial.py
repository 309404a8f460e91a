"""The checks of `berlin doctor` by trial: what a worker does, on keys that are deleted at once."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.cli.doctor import checks
from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.cli.preflight import TIMEOUT_S, reason
from berlin_worker.storage.redis_errors import wrong_type_is_missing

if TYPE_CHECKING:
    from redis import Redis

_TRIAL_TTL_S: Final = 60

# The commands that the scripts of a worker call, on keys that are deleted at once. Redis applies
# the ACL to every command, key and channel in a script. The keys of each script are in one slot,
# because a cluster requires that.
_TRIAL_JOB: Final = """
redis.call('HSET', KEYS[1], 'status', 'doctor')
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], '1-0', 'event', '{}')
redis.call('EXPIRE', KEYS[2], ARGV[1])
redis.call(ARGV[3], ARGV[2], 'doctor')
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


def examine(redis: "Redis", *, sharded: bool = False) -> Iterator[CheckResult]:
    """Yield whether scripts and channels work; on a cluster channels are ``sharded``."""
    yield from attempted("rights", lambda: _rights(redis, sharded=sharded))
    yield from attempted("pub/sub", lambda: _round_trip(redis, sharded=sharded))


def attempted(name: str, check: Callable[[], CheckResult]) -> Iterator[CheckResult]:
    """Yield the result of ``check``, or of the error that it raises."""
    try:
        yield check()
    except (RedisError, OSError) as error:
        yield checks.refusal(name, error, reason(error))


def _rights(redis: "Redis", *, sharded: bool) -> CheckResult:
    trial = f"doctor-{secrets.token_hex(8)}"
    state, log = names.state_key(trial), names.log_key(trial)
    ttl_s = str(_TRIAL_TTL_S)
    channel = names.sharded_channel(trial) if sharded else names.channel(trial)
    publish = "SPUBLISH" if sharded else "PUBLISH"
    redis.eval(_TRIAL_JOB, 2, state, log, ttl_s, channel, publish)
    redis.eval(_TRIAL_INDEX, 1, f"worker:{trial}", ttl_s)
    redis.eval(_TRIAL_STRING, 1, f"token:doctor:{trial}", ttl_s)
    redis.script_load("return 1")
    redis.hmget(state, ["status"])
    redis.xrange(log)
    with wrong_type_is_missing():
        redis.zcard(names.DUE_KEYS[0])
    redis.publish(names.CONTROL_CHANNEL, json.dumps({"cancel": trial}))
    return CheckResult("rights", "ok", "scripts, keys and channels are allowed")


def _round_trip(redis: "Redis", *, sharded: bool) -> CheckResult:
    trial = f"doctor-{secrets.token_hex(8)}"
    with redis.pubsub() as subscription:  # type: ignore[no-untyped-call]  # redis-py
        of_all: Any = subscription
        sender: Any = redis
        if sharded:
            channel = names.sharded_channel(trial)
            subscribe, receive, publish = (
                of_all.ssubscribe,
                of_all.get_sharded_message,
                sender.spublish,
            )
        else:
            channel = names.channel(trial)
            subscribe, receive, publish = of_all.subscribe, of_all.get_message, sender.publish
        subscribe(channel)
        give_up = time.monotonic() + TIMEOUT_S
        while (left := give_up - time.monotonic()) > 0:
            message = receive(timeout=left)
            kind = message["type"] if message else ""
            if kind in {"subscribe", "ssubscribe"}:
                publish(channel, "doctor")
            elif kind in {"message", "smessage"}:
                return CheckResult("pub/sub", "ok", "messages arrive")
    hint = "REDIS_URL must name one primary, not a proxy without pub/sub"
    return CheckResult("pub/sub", "fail", "a published message did not arrive", hint)
