"""Which servers are supported, from real answers to INFO."""

from typing import Any

import pytest
from redis._parsers.helpers import parse_info

from berlin_worker.storage import supported_servers

pytestmark = pytest.mark.unit

REDIS_6_2 = """# Server
redis_version:6.2.14
redis_git_sha1:00000000
redis_mode:standalone
os:Linux 5.10.0 x86_64
arch_bits:64
"""
REDIS_7_0 = """# Server
redis_version:7.0.15
redis_git_sha1:00000000
redis_git_dirty:0
redis_build_id:ae4d7c971a948f0
redis_mode:standalone
gcc_version:12.2.0
# Cluster
cluster_enabled:0
"""
REDIS_CLUSTER = """# Server
redis_version:7.0.15
redis_mode:cluster
"""
REDIS_8 = "# Server\nredis_version:8.2.1\nredis_mode:standalone\n"
VALKEY_9 = """# Server
redis_version:7.2.4
server_name:valkey
valkey_version:9.1.2
valkey_release_stage:ga
server_mode:standalone
gcc_version:14.2.1
# Cluster
cluster_enabled:0
"""
VALKEY_CLUSTER = """# Server
redis_version:7.2.4
server_name:valkey
valkey_version:9.1.2
server_mode:cluster
"""
SENTINEL = "# Server\nredis_version:7.0.15\nredis_mode:sentinel\n"
KEYDB = "# Server\nredis_version:6.3.4\nredis_mode:standalone\n"
DRAGONFLY = "# Server\nredis_version:7.4.0\ndragonfly_version:df-v1.25.1\nredis_mode:standalone\n"
UNSTABLE = "# Server\nredis_version:255.255.255\nredis_mode:standalone\n"


@pytest.mark.parametrize(
    "text", [REDIS_7_0, REDIS_8, VALKEY_9, DRAGONFLY, UNSTABLE, "", "# Server"]
)
def test_server_with_the_needed_commands_is_accepted(text: str) -> None:
    assert supported_servers.problem(parse_info(text)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (REDIS_6_2, "is Redis 6.2.14, which is too old: use Redis 7.0 or later, or Valkey 7.2"),
        (KEYDB, "is Redis 6.3.4, which is too old"),
        (REDIS_CLUSTER, "is a Redis Cluster: name it as redis"),
        (VALKEY_CLUSTER, "is a Redis Cluster: name it as redis"),
        (REDIS_7_0.replace("enabled:0", "enabled:1"), "is a Redis Cluster"),
        (SENTINEL, "is a Sentinel, which holds no data"),
    ],
)
def test_server_that_cannot_do_is_refused_in_one_line(text: str, message: str) -> None:
    problem = supported_servers.problem(parse_info(text))
    assert problem is not None
    assert problem.startswith(message)
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("version", "refused"),
    [
        ("7.0", False),
        ("7", False),
        (7.0, False),
        ("v7.0.1", False),
        ("7.0.15-debian", False),
        ("10.0", False),
        ("6.9.9", True),
        ("6", True),
        (6.2, True),
        ("unknown", False),
        ("", False),
        (None, False),
    ],
)
def test_unknown_version_is_not_refused(version: Any, refused: bool) -> None:
    assert (supported_servers.problem({"redis_version": version}) is not None) == refused


def test_valkey_is_judged_by_its_own_version() -> None:
    assert (
        supported_servers.problem({"redis_version": "7.2.4", "valkey_version": "7.1.0"}) is not None
    )
    assert (
        supported_servers.name({"redis_version": "7.2.4", "valkey_version": "8.0.1"})
        == "Valkey 8.0.1"
    )
    assert (
        supported_servers.name({"redis_version": "7.4", "dragonfly_version": "df-v1"})
        == "Dragonfly df-v1"
    )
    assert supported_servers.name({"redis_version": "7.0.15"}) == "Redis 7.0.15"
    assert supported_servers.name({}) is None


def test_url_decides_whether_a_server_is_a_cluster_node() -> None:
    assert supported_servers.problem({"cluster_enabled": 1}, cluster=True) is None
    assert supported_servers.problem({"cluster_enabled": 0}, cluster=True) is not None
    assert supported_servers.problem({}, cluster=True) is None
