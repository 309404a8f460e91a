"""`berlin doctor` about Sentinels and a cluster."""

from collections.abc import Iterator

import pytest

from berlin_worker.cli.doctor import checks, topology
from berlin_worker.embedded.redis_server import find_server
from berlin_worker.embedded.topology import Cluster, SentinelSet
from tests.support.needed import needed
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration

SERVED = {"cluster_state": "ok", "cluster_slots_ok": "16384"}
MEMORY = {"maxmemory_policy": "noeviction", "maxmemory": 0, "used_memory": 1048576}


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    with Cluster(needed(find_server(), "redis-server or valkey-server")) as running:
        yield running


def test_cluster_is_shown_with_each_of_its_nodes(own_cluster: Cluster) -> None:
    found = list(topology.examine(own_cluster.url))
    assert (found[0].name, found[0].level) == ("topology", "ok")
    assert "3 primaries and 3 replicas, 16384 of 16384 slots served" in found[0].message
    assert found[1].message == "cluster-require-full-coverage is yes"
    assert sum(each.name == "node" and each.level == "ok" for each in found) == 6
    with own_cluster.servers[1].client() as client:
        client.config_set("maxmemory", 10**9)
        client.config_set("maxmemory-policy", "allkeys-lru")
    evicting = [each for each in topology.examine(own_cluster.url) if each.name == "eviction"]
    assert [each.level for each in evicting] == ["fail"]
    assert f":{own_cluster.servers[1].port}: maxmemory-policy is allkeys-lru" in evicting[0].message
    own_cluster.servers[5].kill()
    away = [each for each in topology.examine(own_cluster.url) if "does not answer" in each.message]
    assert [each.level for each in away] == ["warn"]

    def first() -> checks.CheckResult:
        return next(topology.examine(own_cluster.url))

    # Once the others see it, a replica that is away leaves its primary without one.
    wait_until(lambda: first().level == "warn", "the failed replica")
    bare = own_cluster.servers[2]
    assert f"127.0.0.1:{bare.public_port} has none" in first().hint
    with own_cluster.servers[0].client() as client:
        client.config_set("cluster-require-full-coverage", "no")
    [coverage] = [each for each in topology.examine(own_cluster.url) if each.name == "coverage"]
    assert coverage.level == "warn"
    assert f"no at 127.0.0.1:{own_cluster.servers[0].port}" in coverage.message
    bare.kill()  # without a replica its slots are lost
    wait_until(lambda: first().level == "fail", "the lost slots")
    lost = list(topology.examine(own_cluster.url))
    assert "10922 of 16384 slots served" in lost[0].message
    assert [
        each.level for each in lost if f":{bare.port}, a primary, does not" in each.message
    ] == ["fail"]


def test_sentinels_are_shown_with_primary_and_replica(sentinel_set: SentinelSet) -> None:
    found = list(topology.examine(sentinel_set.url))
    primary = sentinel_set.primary().public_port
    assert found[0].message == f"Sentinels name 127.0.0.1:{primary}, with 1 replica"
    assert sum(each.name == "node" and each.level == "ok" for each in found) == 2


def test_server_that_refuses_info_or_the_login_answers_all_the_same(
    sentinel_set: SentinelSet,
) -> None:
    primary = sentinel_set.primary()
    [replica] = [server for server in sentinel_set.servers if server is not primary]
    url = sentinel_set.url.replace("://", "://reader:pw@")
    user = ("ACL", "SETUSER", "reader", "on", ">pw", "+@connection", "-ping")
    try:
        with primary.client() as client:
            client.execute_command(*user)
        found = {each.level: each for each in topology.examine(url) if each.name == "node"}
        assert "refuses the login" in found["warn"].message
        with replica.client() as client:
            client.execute_command(*user)
        found = {each.message: each.level for each in topology.examine(url) if each.name == "node"}
        assert list(found.values()) == ["ok", "ok"], found
    finally:
        for server in (primary, replica):
            with server.client() as client:
                client.execute_command("ACL", "DELUSER", "reader")


def test_missing_nodes_lower_the_level_of_a_check() -> None:
    assert checks.cluster(SERVED, primaries=3, replicas=3).level == "ok"
    assert checks.cluster(SERVED, primaries=3, replicas=2).level == "warn"
    assert (
        checks.cluster(SERVED | {"cluster_slots_ok": "9"}, primaries=3, replicas=3).level == "fail"
    )
    assert checks.cluster({}, primaries=3, replicas=3).level == "fail"
    assert checks.sentinels("a", replicas=0, named=3).level == "warn"
    assert checks.sentinels("a", replicas=1, named=1).level == "warn"
    assert checks.sentinels("a", replicas=1, named=3).level == "ok"
    silent = checks.sentinels("a", replicas=1, named=3, silent=["b:1"])
    assert (silent.level, "b:1" in silent.message) == ("warn", True)
    assert checks.cluster(SERVED, primaries=2, replicas=2, bare=["b"]).level == "warn"
    assert "unknown" in checks.full_coverage({"a": "", "b": ""}).message
    assert checks.full_coverage({"a": "no", "b": "no"}).hint == ""
    assert checks.full_coverage({"a": "no", "b": "yes"}).level == "warn"
    assert checks.node_silent("a", "does not answer", primary=True).level == "fail"
    assert checks.mixed_versions(["Valkey 9", None]).level == "warn"
    persisted = {"aof_enabled": 1}
    [single] = checks.node("a", ({"cluster_enabled": 0}, MEMORY, persisted), cluster=True)
    assert single.level == "fail"
