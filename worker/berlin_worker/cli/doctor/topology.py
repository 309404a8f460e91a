"""The servers behind a Sentinel or cluster URL: their roles, and whether each keeps its data."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from berlin_worker.cli.doctor import checks
from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.cli.preflight import TIMEOUT_S, allowed_info, open_redis, reason, server_info
from berlin_worker.config import urls
from berlin_worker.config.addresses import address
from berlin_worker.config.redis_url import RedisURL
from berlin_worker.storage import connections, supported_servers
from berlin_worker.storage.survey import Survey, survey

_COVERAGE: Final = "cluster-require-full-coverage"


class _Reading(NamedTuple):
    """The report of one server: sections of INFO, and the setting of a cluster."""

    server: Mapping[str, Any]
    memory: Mapping[str, Any]
    persistence: Mapping[str, Any]
    coverage: str


def examine(url: str) -> Iterator[CheckResult]:
    """Yield the results for all servers of ``url``; nothing for a single server."""
    parsed = urls.parse_redis(url, "REDIS_URL")
    if parsed.topology == "single":
        return
    try:
        with connections.blocking(url, timeout_s=TIMEOUT_S) as client:
            found = survey(parsed, client)
            yield _of_cluster(client, found) if found.kind == "cluster" else _of_sentinels(found)
    except (RedisError, OSError) as error:
        yield checks.refusal("topology", error, reason(error))
        return
    yield from _examine_servers(parsed, found)


def _examine_servers(parsed: RedisURL, found: Survey) -> Iterator[CheckResult]:
    is_cluster = found.kind == "cluster"
    readings = {each: _read(parsed.at(each.place), is_cluster=is_cluster) for each in found.servers}
    there = {each: reading for each, reading in readings.items() if isinstance(reading, _Reading)}
    if is_cluster and there:
        yield checks.full_coverage({each.place: read.coverage for each, read in there.items()})
    for each, reading in readings.items():
        at = address(parsed.at(each.place))
        if isinstance(reading, str):
            yield checks.node_silent(at, reading, primary=each.primary)
        else:
            yield from checks.node(at, reading[:3], cluster=is_cluster)
    versions = {supported_servers.name(reading.server) for reading in there.values()}
    if len(versions) > 1:
        yield checks.mixed_versions(versions)


def _read(url: str, *, is_cluster: bool) -> _Reading | str:
    """Return what a server reports, or, if it reports nothing, why."""
    try:
        with open_redis(url) as redis:
            with contextlib.suppress(NoPermissionError):  # an answer, too
                redis.ping()
            memory = allowed_info(redis, "memory")
            persistence = allowed_info(redis, "persistence")
            info = server_info(redis)
            coverage: Any = {}
            if is_cluster:
                with contextlib.suppress(RedisError):  # an ACL, or a service that forbids CONFIG
                    coverage = redis.config_get(_COVERAGE)
            return _Reading(info, memory, persistence, str(coverage.get(_COVERAGE, "")))
    except AuthenticationError as error:
        return f"refuses the login: {reason(error)}"
    except (RedisError, OSError):
        return "does not answer"


def _of_sentinels(found: Survey) -> CheckResult:
    primary, *replicas = found.servers
    return checks.sentinels(
        primary.place,
        replicas=sum(not each.away for each in replicas),
        named=len(found.sentinels),
        silent=[at for at, answers in found.sentinels if not answers],
    )


def _of_cluster(client: Any, found: Survey) -> CheckResult:
    return checks.cluster(
        client.any_node("CLUSTER INFO"),
        primaries=sum(each.primary for each in found.servers),
        replicas=sum(not each.primary and not each.away for each in found.servers),
        bare=found.without_replica,
    )
