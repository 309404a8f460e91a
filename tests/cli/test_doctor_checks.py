"""The doctor's checks: which answers pass, warn or fail."""

from typing import Any

import pytest
from redis import exceptions

from berlin_schemas.errors import ErrorCode
from berlin_worker.cli.doctor import checks
from berlin_worker.errors import JobError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, "ok"),
        ({"redis_version": "8.0.1"}, "ok"),
        ({"redis_version": "7.0.15", "redis_mode": "standalone"}, "ok"),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.25.1"}, "warn"),
        ({"redis_version": "6.2.14"}, "fail"),
        ({"redis_version": "5.0"}, "fail"),
        ({"redis_version": "7.2.4", "redis_mode": "cluster"}, "fail"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0", "cluster_enabled": 1}, "fail"),
        ({}, "warn"),
    ],
)
def test_unsupported_server_fails(info: dict[str, Any], level: str) -> None:
    assert checks.server(info).level == level


def test_providers_that_cannot_be_built_fail() -> None:
    assert checks.providers(None, {"echo", "berlin"}).message == "berlin, echo"
    assert checks.providers("WORKER_TOKEN_KEYS holds no key", ()).level == "fail"


@pytest.mark.parametrize(
    ("policy", "limit", "level"),
    [
        ("noeviction", 0, "ok"),
        ("noeviction", 10**9, "ok"),
        ("allkeys-lru", 10**9, "fail"),
        ("volatile-ttl", 10**9, "fail"),
        # Without a limit nothing is evicted, yet.
        ("allkeys-lru", 0, "warn"),
    ],
)
def test_evicting_redis_fails(policy: str, limit: int, level: str) -> None:
    result = checks.eviction({"maxmemory_policy": policy, "maxmemory": limit})
    assert result.level == level
    assert bool(result.hint) == (level != "ok")


@pytest.mark.parametrize(
    ("used", "limit", "level"),
    [(50, 0, "ok"), (50, 100, "ok"), (80, 100, "warn"), (96, 100, "fail")],
)
def test_nearly_full_redis_fails(used: int, limit: int, level: str) -> None:
    assert checks.memory({"used_memory": used, "maxmemory": limit}).level == level


def test_missing_persistence_is_a_warning() -> None:
    assert checks.persistence({"aof_enabled": 1}).level == "ok"
    assert checks.persistence({"aof_enabled": 0}).level == "warn"


@pytest.mark.parametrize(
    ("redis_ts", "level"),
    [(100.0, "ok"), (100.9, "ok"), (99.2, "ok"), (98.0, "warn"), (190, "warn")],
)
def test_clock_difference_is_a_warning(redis_ts: float, level: str) -> None:
    assert checks.clock(redis_ts, 100.0, 100.1).level == level


def test_slow_answer_is_not_a_clock_difference() -> None:
    assert checks.clock(104.0, 100.0, 110.0).level == "ok"


def test_missing_worker_is_a_warning() -> None:
    assert checks.workers(2, 5).message == "2 workers, 5 jobs in the queue"
    assert checks.workers(0, 1).level == "warn"
    assert checks.workers(1, None).message == "1 worker, an unknown number of jobs in the queue"


def test_missing_info_is_a_warning() -> None:
    for check in (checks.server, checks.eviction, checks.memory, checks.persistence):
        assert check({}).level == "warn"


def test_failed_login_has_a_hint() -> None:
    assert checks.login(None, "https://host").level == "ok"
    error = JobError(ErrorCode.AUTH_FAILED, "401")
    assert "settings of the provider" in checks.login(error, "https://host").hint
    error.add_note("look at BERLIN_ACCOUNT and BERLIN_PASSWORD")
    result = checks.login(error, "https://host")
    assert (result.level, result.hint) == ("fail", "look at BERLIN_ACCOUNT and BERLIN_PASSWORD")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (exceptions.NoPermissionError("this user has no permissions"), "give the user"),
        (exceptions.OutOfMemoryError("command not allowed"), "raise maxmemory"),
        (exceptions.ResponseError("Error running script: -OOM command"), "raise maxmemory"),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), "primary"),
        (exceptions.ResponseError("MISCONF Redis is configured to save"), "disk"),
        (exceptions.TimeoutError("no reply"), "try again"),
    ],
)
def test_refused_check_has_the_hint_for_its_error(error: Exception, hint: str) -> None:
    result = checks.refusal("rights", error, str(error))
    assert result.level == "fail"
    assert hint in result.hint.lower()
