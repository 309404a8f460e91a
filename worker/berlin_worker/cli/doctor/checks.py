"""What `berlin doctor` makes of what it is told (pure). Each verdict says what to do."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError

from berlin_worker.errors import JobError
from berlin_worker.storage import supported_servers
from berlin_worker.storage.sharding.marks import trouble

Level = Literal["ok", "warn", "fail"]

_CLOCK_TOLERANCE_S: Final = 1.0
_MEMORY_WARN: Final = 0.75
_MEMORY_FAIL: Final = 0.95


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the doctor's; ``advice`` is empty where nothing is to be done."""

    name: str
    level: Level
    told: str
    advice: str = ""


def server(info: Mapping[str, Any]) -> CheckResult:
    """From ``INFO server`` and ``INFO cluster``: which server it is, and whether it is usable."""
    name = supported_servers.name(info)
    if problem := supported_servers.problem(info):
        return CheckResult("server", "fail", f"it {problem}")
    if name is None:
        return _untold("server", "INFO server")
    if not name.startswith(("Redis", "Valkey")):
        return CheckResult(
            "server", "warn", name, f"it is not tested: use {supported_servers.SUPPORTED}"
        )
    return CheckResult("server", "ok", name)


def misspelt(warning: str) -> CheckResult:
    """A variable of the environment that looks like a setting, and is none."""
    return CheckResult("settings", "warn", warning)


def providers(problem: str | None, names: Collection[str]) -> CheckResult:
    """What came of building the providers that a worker with these settings serves."""
    if problem is not None:
        return CheckResult(
            "providers", "fail", problem, "a worker with these settings does not start"
        )
    return CheckResult("providers", "ok", ", ".join(sorted(names)))


def eviction(info: Mapping[str, Any]) -> CheckResult:
    """From ``INFO memory``: a Redis that evicts keys loses jobs and queues without a word."""
    policy, limit = info.get("maxmemory_policy"), int(info.get("maxmemory") or 0)
    if not policy:
        return _untold("eviction", "INFO memory")
    if policy == "noeviction":
        return CheckResult("eviction", "ok", "maxmemory-policy is noeviction")
    told = f"maxmemory-policy is {policy}"
    advice = "CONFIG SET maxmemory-policy noeviction: every other policy drops queued jobs and logs"
    # Without a limit nothing is evicted yet.
    return CheckResult("eviction", "fail" if limit else "warn", told, advice)


def memory(info: Mapping[str, Any]) -> CheckResult:
    """From ``INFO memory``: how full it is. A full Redis refuses jobs."""
    if "used_memory" not in info:
        return _untold("memory", "INFO memory")
    used, limit = int(info["used_memory"]), int(info.get("maxmemory") or 0)
    if not limit:
        advice = (
            "set maxmemory below what the machine has, so that Redis refuses before it is killed"
        )
        return CheckResult("memory", "ok", f"{_mib(used)} used, without a limit", advice)
    told = f"{_mib(used)} of {_mib(limit)} used"
    share = used / limit
    if share < _MEMORY_WARN:
        return CheckResult("memory", "ok", told)
    advice = "raise maxmemory, or lower WORKER_LOG_TTL_S: when it is full, jobs are refused"
    return CheckResult("memory", "fail" if share > _MEMORY_FAIL else "warn", told, advice)


def persistence(info: Mapping[str, Any]) -> CheckResult:
    """From ``INFO persistence``: what a crash of Redis loses."""
    if "aof_enabled" not in info:
        return _untold("persistence", "INFO persistence")
    if int(info["aof_enabled"]):
        return CheckResult("persistence", "ok", "append-only file is on")
    advice = "appendonly yes: else a crash of Redis loses the jobs that were accepted"
    return CheckResult("persistence", "warn", "append-only file is off", advice)


def clock(redis_ts: float, before_ts: float, after_ts: float) -> CheckResult:
    """``TIME`` of Redis, between two readings of the clock here, in Unix seconds."""
    apart = max(redis_ts - after_ts, before_ts - redis_ts, 0.0)
    if apart < _CLOCK_TOLERANCE_S:
        return CheckResult("clock", "ok", "the clocks of Redis and of this machine agree")
    advice = (
        "run NTP on both: leases go by the clock of Redis, `ts` of events by that of the worker"
    )
    return CheckResult("clock", "warn", f"the clocks are {apart:.1f} s apart", advice)


def mark(found: str | None, expected: str | None, at: str) -> CheckResult:
    """What an event store, or ``REDIS_URL``, is marked as, and what it should be."""
    if told := trouble(expected, found, at):
        return CheckResult("stores", "fail", told, "set WORKER_EVENT_SHARDS as the workers have it")
    if found is None:
        return CheckResult("stores", "ok", f"{at} bears no mark: no worker has used it lately")
    return CheckResult("stores", "ok", f"{at} is marked as WORKER_EVENT_SHARDS says")


def refusal(name: str, error: BaseException, told: str) -> CheckResult:
    """A check that could not be made: the user lacks a right, or the server cannot do it now.

    ``told`` is what ``error`` says. What goes wrong in a script, Redis before 7.0 tells by its
    text alone.
    """
    if isinstance(error, NoPermissionError):
        advice = (
            "allow the user what deploy/redis/users.acl allows `worker`; if it is that one, the "
            "server's ACL file is older than this version: make it anew (deploy/redis/acl)"
        )
    elif isinstance(error, OutOfMemoryError) or "OOM" in told:
        advice = (
            "no right is missing: Redis is full, and takes no job before there is room. Raise "
            "maxmemory, or lower WORKER_LOG_TTL_S"
        )
    elif isinstance(error, ReadOnlyError):
        advice = "no right is missing: this is a replica, and REDIS_URL must lead to the primary"
    elif "MISCONF" in told:
        advice = "no right is missing: Redis cannot save to its disk; its log says why"
    else:
        advice = "try again; Redis did answer before"
    return CheckResult(name, "fail", told, advice)


def workers(living: int, waiting: int | None) -> CheckResult:
    """How many workers live, and how many jobs wait in the queue (``None``: not known)."""
    jobs = "an unknown number of jobs" if waiting is None else _count(waiting, "job")
    told = f"{_count(living, 'worker')}, {jobs} in the queue"
    if living:
        return CheckResult("workers", "ok", told)
    return CheckResult("workers", "warn", told, "start one: berlin worker")


def login(error: JobError | None, url: str) -> CheckResult:
    """What came of a login at ``url``."""
    if error is None:
        return CheckResult("login", "ok", f"{url} has taken the account")
    advice = "; ".join(getattr(error, "__notes__", ())) or "look at the settings of the provider"
    return CheckResult("login", "fail", f"{url}: {error.code}: {error.message}", advice)


def _untold(name: str, command: str) -> CheckResult:
    advice = f"where {command} is forbidden or missing (fakeredis), look for yourself"
    return CheckResult(name, "warn", "the server does not tell", advice)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
