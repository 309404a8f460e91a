"""Servers of a topology by a reply to CLUSTER SHARDS, as servers and services send it."""

from types import SimpleNamespace
from typing import Any, ClassVar, Self, cast

import pytest
import redis

from berlin_worker.config import urls
from berlin_worker.storage import survey as module
from berlin_worker.storage.survey import ServerState, Survey, servers_of, survey

pytestmark = pytest.mark.unit


def shard(*nodes: dict[str, object], slots: object = (0, 9)) -> dict[str, object]:
    return {"slots": list(slots), "nodes": list(nodes)}  # type: ignore[call-overload]  # any reply


def node(
    port: int, role: str = "master", health: str = "online", **more: object
) -> dict[str, object]:
    return {"port": port, "ip": "10.0.0.1", "role": role, "health": health, **more}


def test_primaries_come_first_and_failed_nodes_are_away() -> None:
    found = servers_of(
        [shard(node(1), node(2, "replica", "fail")), shard(node(4, "slave", "loading"), node(3))],
        tls=False,
    )
    assert [(each.place, each.primary, each.away) for each in found] == [
        ("10.0.0.1:1", True, False),
        ("10.0.0.1:3", True, False),
        ("10.0.0.1:2", False, True),
        ("10.0.0.1:4", False, False),
    ]
    assert Survey("cluster", found).without_replica == ("10.0.0.1:1",)


def test_former_primary_that_is_away_is_no_primary_beside_the_promoted_one() -> None:
    found = servers_of([shard(node(1, health="fail"), node(2))], tls=False)
    assert [(each.place, each.primary, each.away) for each in found] == [
        ("10.0.0.1:2", True, False),
        ("10.0.0.1:1", False, True),
    ]
    [alone] = servers_of([shard(node(1, health="fail"))], tls=False)
    assert (alone.primary, alone.away) == (True, True)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"endpoint": "host.example"}, "host.example:1"),
        ({"endpoint": "?", "ip": "::1"}, "[::1]:1"),
        ({"endpoint": "", "ip": "10.1.1.1"}, "10.1.1.1:1"),
        ({"endpoint": None, "tls-port": 7}, "10.0.0.1:7"),
        ({"endpoint": "", "ip": ""}, None),
        ({"port": None}, None),
    ],
)
def test_node_is_named_as_clients_reach_it(fields: dict[str, object], place: str | None) -> None:
    found = servers_of([shard({**node(1), **fields})], tls="tls-port" in fields)
    assert [each.place for each in found] == ([] if place is None else [place])


def test_node_without_slots_is_left_out() -> None:
    assert servers_of([shard(node(1), slots=()), {}], tls=False) == ()
    assert Survey("single").without_replica == ()
    assert ServerState("a:1", primary=True).away is False


class Sentinel:
    """A Sentinel by its port: replies, refuses, or is away."""

    replies: ClassVar[dict[int, Any]] = {
        1: redis.ConnectionError("away"),
        2: redis.ResponseError("NOPERM"),
        3: [{"ip": "10.0.0.2", "port": 7, "is_sdown": True}, {"ip": "10.0.0.1", "port": 7}],
    }

    def __init__(self, port: int, **_: Any) -> None:
        self.port = port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sentinel_slaves(self, _: str) -> Any:
        reply = self.replies[self.port]
        if isinstance(reply, Exception):
            raise reply
        return reply


class Primary:
    """The primary, with its INFO replication."""

    def __init__(self, replication: Any) -> None:
        self.replication = replication

    def info(self, _: str) -> Any:
        if isinstance(self.replication, Exception):
            raise self.replication
        return self.replication


def behind_sentinels(monkeypatch: pytest.MonkeyPatch, nodes: str, replication: Any) -> Survey:
    watch = SimpleNamespace(find_blocking=lambda: ("10.0.0.1", 7))
    monkeypatch.setattr(module, "watch_of", lambda _: watch)
    monkeypatch.setattr(module.redis, "Redis", Sentinel)
    url = urls.parse_redis(f"redis+sentinel://{nodes}/mymaster", "REDIS_URL")
    return survey(url, cast("redis.Redis", Primary(replication)))


def test_sentinels_name_the_replicas_and_those_that_do_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = behind_sentinels(monkeypatch, "s:1,s:2,s:3", redis.ResponseError("not asked"))
    assert found.sentinels == (("s:1", False), ("s:2", True), ("s:3", True))
    assert found.servers == (
        ServerState("10.0.0.1:7", primary=True),
        ServerState("10.0.0.2:7", primary=False, away=True),
    )
    assert found.without_replica == ("10.0.0.1:7",)


def test_primary_names_the_replicas_that_no_sentinel_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replication = {"role": "master", "slave0": {"ip": "10.0.0.3", "port": 7}, "slave1": "?"}
    found = behind_sentinels(monkeypatch, "s:1,s:2", replication)
    assert [each.place for each in found.servers] == ["10.0.0.1:7", "10.0.0.3:7"]
    assert found.without_replica == ()
    found = behind_sentinels(monkeypatch, "s:2", redis.ResponseError("NOPERM"))
    assert [each.place for each in found.servers] == ["10.0.0.1:7"]


class ClusterClient:
    """A client of a cluster, whose server may refuse CLUSTER SHARDS."""

    def __init__(self, shards: Any) -> None:
        self.shards = shards

    def any_node(self, *_: str) -> Any:
        if isinstance(self.shards, Exception):
            raise self.shards
        return self.shards

    def get_nodes(self) -> list[Any]:
        kinds = ("replica", "primary")
        return [SimpleNamespace(host="::1", port=n, server_type=k) for n, k in enumerate(kinds)]


def test_cluster_is_read_by_shards_or_by_what_lives() -> None:
    url = urls.parse_redis("redis+cluster://a:1", "REDIS_URL")
    reply = [{b"slots": [0, 9], b"nodes": [{b"port": 1, b"ip": b"10.0.0.1", b"role": b"master"}]}]
    [server] = survey(url, cast("redis.Redis", ClusterClient(reply))).servers
    assert (server.place, server.primary) == ("10.0.0.1:1", True)
    refused = ClusterClient(redis.ResponseError("NOPERM"))
    found = survey(url, cast("redis.Redis", refused)).servers
    assert [(each.place, each.primary) for each in found] == [("[::1]:1", True), ("[::1]:0", False)]


def test_single_server_has_no_others() -> None:
    url = urls.parse_redis("redis://a:1", "REDIS_URL")
    assert survey(url, cast("redis.Redis", Primary({}))) == Survey("single")
