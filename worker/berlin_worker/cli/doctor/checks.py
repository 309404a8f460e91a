"""The checks of `berlin doctor`: from what servers report to results with hints (pure)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError

from berlin_worker.errors import JobError
from berlin_worker.storage import supported_servers

Level = Literal["ok", "warn", "fail"]

_CLOCK_TOLERANCE_S: Final = 1.0
_MEMORY_WARN: Final = 0.75
_MEMORY_FAIL: Final = 0.95
_SLOTS: Final = 16384
_COVERAGE: Final = "cluster-require-full-coverage"
_FEWEST_SENTINELS: Final = 3


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of `berlin doctor`. ``hint`` is what to do, empty if nothing."""

    name: str
    level: Level
    message: str
    hint: str = ""


def server(info: Mapping[str, Any], *, cluster: bool = False) -> CheckResult:
    """Check kind and version of the server by ``INFO server`` and ``INFO cluster``."""
    name = supported_servers.name(info)
    if problem := supported_servers.problem(info, cluster=cluster):
        return CheckResult("server", "fail", f"it {problem}")
    if name is None:
        return _not_available("server", "INFO server")
    if not name.startswith(("Redis", "Valkey")):
        return CheckResult(
            "server", "warn", name, f"this server is not tested: use {supported_servers.SUPPORTED}"
        )
    return CheckResult("server", "ok", name)


def sentinels(
    primary: str, *, replicas: int, named: int, silent: Collection[str] = ()
) -> CheckResult:
    """Check the servers behind Sentinels: the primary, its replicas, and how many are named.

    ``silent`` are the Sentinels that do not answer.
    """
    message = f"Sentinels name {primary}, with {_count(replicas, 'replica')}"
    if silent:
        message += f"; no answer from the Sentinel {', '.join(silent)}"
        hint = "start it: a majority of the Sentinels must live to promote a replica"
        return CheckResult("topology", "warn", message, hint)
    if not replicas:
        hint = "start a replica: without one nothing can be promoted"
        return CheckResult("topology", "warn", message, hint)
    if named < _FEWEST_SENTINELS:
        hint = f"name all Sentinels in the URL, {_FEWEST_SENTINELS} or more: one may be down"
        return CheckResult("topology", "warn", message, hint)
    return CheckResult("topology", "ok", message)


def cluster(
    info: Mapping[str, Any], *, primaries: int, replicas: int, bare: Collection[str] = ()
) -> CheckResult:
    """Check ``CLUSTER INFO``: all slots must be served. ``bare``: primaries without a replica."""
    served = int(info.get("cluster_slots_ok") or 0)
    message = (
        f"cluster of {_count(primaries, 'primary', 'primaries')} and "
        f"{_count(replicas, 'replica')}, {served} of {_SLOTS} slots served"
    )
    if served < _SLOTS or info.get("cluster_state") != "ok":
        return CheckResult("topology", "fail", message, "see CLUSTER NODES: jobs of the rest wait")
    if bare or replicas < primaries:
        without = f": {', '.join(bare)} has none" if bare else ""
        hint = f"give each primary a replica{without}; if one without dies, its jobs are lost"
        return CheckResult("topology", "warn", message, hint)
    return CheckResult("topology", "ok", message)


def full_coverage(values: Mapping[str, str]) -> CheckResult:
    """Report ``cluster-require-full-coverage`` by node; an empty value is unknown."""
    found = set(values.values())
    if len(found) > 1:
        shown = ", ".join(f"{value or 'unknown'} at {at}" for at, value in values.items())
        hint = "CONFIG SET it to no on each node"
        return CheckResult("coverage", "warn", f"{_COVERAGE} differs: {shown}", hint)
    hints = {
        "yes": "with no, a lost primary stops its own jobs alone: CONFIG SET it on each node",
        "": "CONFIG GET is forbidden: check it by hand; with no, a lost primary stops its own jobs "
        "alone",
    }
    value = next(iter(found), "")
    return CheckResult(
        "coverage", "ok", f"{_COVERAGE} is {value or 'unknown'}", hints.get(value, "")
    )


def node(
    at: str, infos: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], *, cluster: bool
) -> list[CheckResult]:
    """Check one of several servers by INFO of server, memory and persistence."""
    info, of_memory, of_persistence = infos
    if problem := supported_servers.problem(info, cluster=cluster):
        return [CheckResult("node", "fail", f"{at} {problem}")]
    found = [eviction(of_memory), memory(of_memory), persistence(of_persistence)]
    wrong = [
        CheckResult(each.name, each.level, f"{at}: {each.message}", each.hint)
        for each in found
        if each.level != "ok"
    ]
    facts = ", ".join(each.message for each in found[:2])
    name = supported_servers.name(info) or "unknown server"
    return [CheckResult("node", "ok", f"{at}: {name}, {facts}"), *wrong]


def node_silent(at: str, why: str, *, primary: bool) -> CheckResult:
    """Return the result for a server that reports nothing; ``why`` follows its name."""
    role = "a primary" if primary else "a replica"
    return CheckResult("node", "fail" if primary else "warn", f"{at}, {role}, {why}")


def mixed_versions(versions: Collection[str | None]) -> CheckResult:
    """Return a warning for servers of several versions."""
    names = ", ".join(sorted(name or "unknown" for name in versions))
    return CheckResult("node", "warn", f"several versions: {names}", "finish the update")


def misspelt(warning: str) -> CheckResult:
    """Return a warning for a variable that looks like a misspelt setting."""
    return CheckResult("settings", "warn", warning)


def providers(problem: str | None, names: Collection[str]) -> CheckResult:
    """Return the result of building the providers for these settings."""
    if problem is not None:
        return CheckResult(
            "providers", "fail", problem, "a worker with these settings does not start"
        )
    return CheckResult("providers", "ok", ", ".join(sorted(names)))


def eviction(info: Mapping[str, Any]) -> CheckResult:
    """Check the eviction policy in ``INFO memory``: eviction silently loses jobs and queues."""
    policy, limit = info.get("maxmemory_policy"), int(info.get("maxmemory") or 0)
    if not policy:
        return _not_available("eviction", "INFO memory")
    if policy == "noeviction":
        return CheckResult("eviction", "ok", "maxmemory-policy is noeviction")
    message = f"maxmemory-policy is {policy}"
    hint = "CONFIG SET maxmemory-policy noeviction: every other policy drops queued jobs and logs"
    # Without maxmemory Redis evicts nothing.
    return CheckResult("eviction", "fail" if limit else "warn", message, hint)


def memory(info: Mapping[str, Any]) -> CheckResult:
    """Check in ``INFO memory`` how full Redis is. A full Redis refuses jobs."""
    if "used_memory" not in info:
        return _not_available("memory", "INFO memory")
    used, limit = int(info["used_memory"]), int(info.get("maxmemory") or 0)
    if not limit:
        hint = "set maxmemory below the memory of the machine, so that Redis refuses jobs in time"
        return CheckResult("memory", "ok", f"{_mib(used)} used, without a limit", hint)
    message = f"{_mib(used)} of {_mib(limit)} used"
    share = used / limit
    if share < _MEMORY_WARN:
        return CheckResult("memory", "ok", message)
    hint = "raise maxmemory, or lower WORKER_LOG_TTL_S: when it is full, jobs are refused"
    return CheckResult("memory", "fail" if share > _MEMORY_FAIL else "warn", message, hint)


def persistence(info: Mapping[str, Any]) -> CheckResult:
    """Check in ``INFO persistence`` what a crash of Redis loses."""
    if "aof_enabled" not in info:
        return _not_available("persistence", "INFO persistence")
    if int(info["aof_enabled"]):
        return CheckResult("persistence", "ok", "append-only file is on")
    hint = "set appendonly yes: otherwise a crash of Redis loses accepted jobs"
    return CheckResult("persistence", "warn", "append-only file is off", hint)


def clock(redis_ts: float, before_ts: float, after_ts: float) -> CheckResult:
    """Compare ``TIME`` of Redis with the clock before and after the call (Unix seconds)."""
    apart = max(redis_ts - after_ts, before_ts - redis_ts, 0.0)
    if apart < _CLOCK_TOLERANCE_S:
        return CheckResult("clock", "ok", "the clocks of Redis and of this machine agree")
    hint = "run NTP on both: leases use the clock of Redis, `ts` of events that of the worker"
    return CheckResult("clock", "warn", f"the clocks are {apart:.1f} s apart", hint)


def refusal(name: str, error: BaseException, message: str) -> CheckResult:
    """Return the result of a check that Redis has refused.

    ``message`` is the text of ``error``. It is examined too, because an error inside a script may
    arrive as a generic ``ResponseError``.
    """
    if isinstance(error, NoPermissionError):
        hint = (
            "give the user the rights of `worker` in deploy/redis/users.acl; if it is that user, "
            "the ACL file of the server is out of date: make it again (deploy/redis/acl)"
        )
    elif isinstance(error, OutOfMemoryError) or "OOM" in message:
        hint = (
            "no right is missing: Redis is full, and refuses jobs. Raise maxmemory, or lower "
            "WORKER_LOG_TTL_S"
        )
    elif isinstance(error, ReadOnlyError):
        hint = "no right is missing: this is a replica, and REDIS_URL must name the primary"
    elif "MISCONF" in message:
        hint = "no right is missing: Redis cannot write to its disk; see its log"
    else:
        hint = "try again: earlier checks had an answer"
    return CheckResult(name, "fail", message, hint)


def workers(living: int, waiting: int | None) -> CheckResult:
    """Report the running workers and the jobs in the queue (``None`` if unknown)."""
    jobs = "an unknown number of jobs" if waiting is None else _count(waiting, "job")
    message = f"{_count(living, 'worker')}, {jobs} in the queue"
    if living:
        return CheckResult("workers", "ok", message)
    return CheckResult("workers", "warn", message, "start one by `berlin worker`")


def login(error: JobError | None, url: str) -> CheckResult:
    """Return the result of a login at ``url``."""
    if error is None:
        return CheckResult("login", "ok", f"{url} has accepted the account")
    hint = "; ".join(getattr(error, "__notes__", ())) or "check the settings of the provider"
    return CheckResult("login", "fail", f"{url}: {error.code}: {error.message}", hint)


def _not_available(name: str, command: str) -> CheckResult:
    hint = f"{command} is forbidden or missing (as in fakeredis): check the server by hand"
    return CheckResult(name, "warn", "the server does not report it", hint)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _count(number: int, thing: str, things: str = "") -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {things or thing + 's'}"
