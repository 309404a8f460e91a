"""The servers behind a Sentinel or cluster URL: who they are, and whether each keeps its data."""

from collections.abc import Iterator
from typing import Any, Final

from redis.exceptions import RedisError

from berlin_worker.cli.doctor import checks
from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.cli.preflight import TIMEOUT_S, open_redis, reason, server_info
from berlin_worker.config import urls
from berlin_worker.config.addresses import address
from berlin_worker.config.redis_url import RedisURL
from berlin_worker.storage import connections, nodes, supported_servers
from berlin_worker.storage.nodes import Node

_COVERAGE: Final = "cluster-require-full-coverage"


def examine(url: str) -> Iterator[CheckResult]:
    """Yield the results for all servers of ``url``; nothing for a single server."""
    parsed = urls.parse_redis(url, "REDIS_URL")
    if parsed.topology == "single":
        return
    try:
        found = nodes.nodes_of_blocking(url, timeout_s=TIMEOUT_S)
        yield from (
            _examine_cluster(url, found)
            if parsed.topology == "cluster"
            else (_sentinels(parsed, found),)
        )
    except (RedisError, OSError) as error:
        yield checks.refusal("topology", error, reason(error))
        return
    versions = set()
    for node in found:
        infos = _infos(node)
        if infos is None:
            yield checks.node_away(address(node.url), primary=node.primary)
            continue
        versions.add(supported_servers.name(infos[0]))
        yield from checks.node(address(node.url), infos, cluster=parsed.topology == "cluster")
    if len(versions) > 1:
        yield checks.mixed_versions(versions)


def _infos(node: Node) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None:
    """Return INFO of server, memory and persistence; ``None`` if the server does not answer."""
    try:
        with open_redis(node.url) as redis:
            redis.ping()
            memory: Any = redis.info("memory")
            persistence: Any = redis.info("persistence")
            return server_info(redis), memory, persistence
    except (RedisError, OSError):
        return None


def _sentinels(parsed: RedisURL, found: list[Node]) -> CheckResult:
    replicas = sum(not node.primary for node in found)
    return checks.sentinels(address(found[0].url), replicas=replicas, named=len(parsed.nodes))


def _examine_cluster(url: str, found: list[Node]) -> Iterator[CheckResult]:
    with connections.blocking(url, timeout_s=TIMEOUT_S) as client:
        cluster: Any = client
        info = cluster.cluster_info(target_nodes=cluster.get_default_node())
        primaries = sum(node.primary for node in found)
        yield checks.cluster(info, primaries=primaries, replicas=len(found) - primaries)
        try:
            given = cluster.config_get(_COVERAGE, target_nodes=cluster.get_default_node())
        except RedisError:  # an ACL, or a managed service, that forbids CONFIG
            return
    yield checks.full_coverage(str(given.get(_COVERAGE, "")))
