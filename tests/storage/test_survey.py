"""Servers of a topology by a reply to CLUSTER SHARDS, as servers and services send it."""

import pytest

from berlin_worker.storage.survey import ServerState, Survey, servers_of

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
