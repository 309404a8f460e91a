"""The servers behind a Sentinel or cluster URL, asked once, with those that are silent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from berlin_worker.config.redis_url import RedisURL, Topology
from berlin_worker.storage.sentinel import sentinel_options, watch_of

_SHARDS: Final = ("CLUSTER", "SHARDS")
_FAILED: Final = frozenset({"fail", "failed"})
"""A replica that has just begun to follow is ``loading``."""
_NO_HOST: Final = (None, "", "?")
_PRIMARY: Final = frozenset({"master", "primary"})
_AWAY: Final = ("is_sdown", "is_odown", "is_disconnected")


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server as the others see it. ``place`` is ``host:port``."""

    place: str
    primary: bool
    away: bool = False
    shard: int = 0
    """Servers of one shard replicate each other."""


@dataclass(frozen=True, slots=True)
class Survey:
    """All servers that hold data, primaries first.

    ``sentinels``: host:port of each, and whether it answers.
    """

    kind: Topology
    servers: tuple[ServerState, ...] = ()
    sentinels: tuple[tuple[str, bool], ...] = ()

    @property
    def without_replica(self) -> tuple[str, ...]:
        """The primaries that no living replica follows."""
        followed = {each.shard for each in self.servers if not each.primary and not each.away}
        return tuple(
            each.place for each in self.servers if each.primary and each.shard not in followed
        )


def survey(url: RedisURL, client: redis.Redis) -> Survey:
    """Ask the servers of ``url``, over its ``client`` and at each Sentinel.

    Raises redis-py's errors if neither the primary nor a node of the cluster can be asked.
    """
    if url.topology == "cluster":
        return Survey("cluster", _of_cluster(url, client))
    if url.topology == "sentinel":
        return _of_sentinels(url, client)
    return Survey("single")


def servers_of(shards: Iterable[Mapping[str, Any]], *, tls: bool) -> tuple[ServerState, ...]:
    """Return the nodes in a reply to CLUSTER SHARDS (pure)."""
    return _sorted(
        state
        for number, shard in enumerate(shards)
        if shard.get("slots")  # else a node that has got none yet, or has lost them all
        for state in _of_shard(number, shard.get("nodes") or (), tls=tls)
    )


def _of_shard(
    number: int, nodes: Iterable[Mapping[str, Any]], *, tls: bool
) -> Iterable[ServerState]:
    found = []
    for node in nodes:
        hosts = (node.get("endpoint"), node.get("ip"))
        host = next((each for each in hosts if each not in _NO_HOST), None)
        port = (node.get("tls-port") if tls else None) or node.get("port")
        if host and port:
            primary, away = node.get("role") in _PRIMARY, node.get("health") in _FAILED
            found.append(ServerState(place(host, port), primary, away, number))
    if any(each.primary and not each.away for each in found):
        # A former primary that is away still has its role.
        found = [replace(each, primary=each.primary and not each.away) for each in found]
    return found


def place(host: str, port: int | str) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _sorted(found: Iterable[ServerState]) -> tuple[ServerState, ...]:
    return tuple(sorted(found, key=lambda each: (not each.primary, each.place)))


def _of_cluster(url: RedisURL, client: redis.Redis) -> tuple[ServerState, ...]:
    cluster: Any = client
    try:
        shards = cluster.any_node(*_SHARDS)
        return servers_of(map(_as_text, shards), tls=url.uses_tls)
    except redis.ResponseError:
        # The user has no right to it. CLUSTER SLOTS names only nodes that are up.
        return _sorted(
            ServerState(place(node.host, node.port), node.server_type == "primary")
            for node in cluster.get_nodes()
        )


def _as_text(value: Any) -> Any:
    """Return a reply with texts in place of bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {_as_text(key): _as_text(each) for key, each in value.items()}
    return [_as_text(each) for each in value] if isinstance(value, list) else value


def _of_sentinels(url: RedisURL, client: redis.Redis) -> Survey:
    primary = ServerState(place(*watch_of(url).find_blocking()), primary=True)
    sentinels, replicas = [], None
    for host, port in url.nodes:
        found = _ask_sentinel(url, host, port)
        sentinels.append((place(host, port), found is not None))
        replicas = replicas or found
    if not replicas:  # Sentinels that have just started list no replica yet
        replicas = _connected_replicas(client)
    servers = [primary, *(each for each in replicas if each.place != primary.place)]
    return Survey("sentinel", _sorted(servers), tuple(sentinels))


def _ask_sentinel(url: RedisURL, host: str, port: int) -> list[ServerState] | None:
    """Return the replicas that a Sentinel lists; ``None`` if it does not answer."""
    retry = Retry(NoBackoff(), 0)
    with redis.Redis(host=host, port=port, retry=retry, **sentinel_options(url)) as sentinel:
        try:
            known: Any = sentinel.sentinel_slaves(url.primary)
        except redis.ResponseError:  # it answers: a user without the right, or another name
            return []
        except (RedisError, OSError):
            return None
    return [
        ServerState(place(each["ip"], each["port"]), False, any(map(each.get, _AWAY)))
        for each in known
    ]


def _connected_replicas(client: redis.Redis) -> list[ServerState]:
    try:
        replication: Any = client.info("replication")
    except RedisError:  # a user without the right to run it
        return []
    return [
        ServerState(place(field["ip"], field["port"]), False)
        for name, field in sorted(replication.items())
        if name.startswith("slave") and isinstance(field, dict) and "ip" in field
    ]
