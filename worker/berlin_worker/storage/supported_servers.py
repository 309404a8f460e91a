"""Decide from the reply to INFO whether a server is supported (pure)."""

import re
from collections.abc import Mapping
from typing import Any, Final

OLDEST_REDIS: Final = (7, 0)
OLDEST_VALKEY: Final = (7, 2)
SUPPORTED: Final = "Redis 7.0 or later, or Valkey 7.2 or later"
CLUSTER: Final = "is a Redis Cluster: name it as redis+cluster://host:6379"
NO_CLUSTER: Final = "is no Redis Cluster: name it as redis://host:6379/0"


def name(info: Mapping[str, Any]) -> str | None:
    """Return server and version, for example ``Valkey 9.1.0``; ``None`` if INFO has neither.

    ``info`` holds the fields of the section ``server`` of INFO, and of ``cluster`` if they are
    known; the values are as redis-py reads them.
    """
    for field, brand in (("valkey_version", "Valkey"), ("dragonfly_version", "Dragonfly")):
        if version := info.get(field):
            return f"{brand} {version}"
    version = info.get("redis_version")
    return f"Redis {version}" if version else None


def problem(info: Mapping[str, Any], *, cluster: bool = False) -> str | None:
    """Return why a server cannot be used, to follow "Redis at <address>"; ``None`` if it can.

    ``cluster``: by its URL it is a node of a cluster.

    A server or proxy whose INFO lacks these fields is not refused.
    """
    mode = {str(info.get(field)) for field in ("redis_mode", "server_mode")}
    is_cluster = "cluster" in mode or str(info.get("cluster_enabled")) == "1"
    if is_cluster and not cluster:
        return CLUSTER
    if cluster and not is_cluster and "cluster_enabled" in info:
        return NO_CLUSTER
    if "sentinel" in mode:
        return (
            "is a Sentinel, which holds no data: Sentinels are named as "
            "redis+sentinel://host1:26379,host2:26379/mymaster"
        )
    if "valkey_version" in info:
        version, oldest = _numbers(info["valkey_version"]), OLDEST_VALKEY
    else:
        version, oldest = _numbers(info.get("redis_version")), OLDEST_REDIS
    if version and version < oldest:
        return f"is {name(info)}, which is too old: use {SUPPORTED}"
    return None


def _numbers(version: object) -> tuple[int, ...]:
    """Return the first two numbers of a version; empty if it does not begin with a number."""
    found = re.match(r"v?(\d{1,9})(?:\.(\d{1,9}))?", str(version))
    return tuple(int(number or 0) for number in found.groups()) if found else ()
