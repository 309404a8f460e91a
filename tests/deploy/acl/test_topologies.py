"""`deploy/redis/users.acl` behind Sentinels and on a cluster: the same users and rights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from redis.exceptions import MovedError, RedisError

from berlin_schemas import names
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.embedded.upstream import upstream_in_thread
from tests.gateway.conftest import Harness, serve
from tests.support.acl import (
    LOG,
    NOPERM,
    OTHERS_JOB,
    STATE,
    TOKEN,
    GuardedTopology,
    as_producer,
    as_subscriber,
    cli,
    top_of,
)
from tests.support.checker import text_of
from tests.support.fleet import QUICK_LEASES, Fleet, prompt
from tests.support.topologies import empty
from tests.support.workers import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def fleet(guarded_topology: GuardedTopology) -> Iterator[Fleet]:
    """Yield a worker and a bare producer, each as its own user; the test reads as admin."""
    guarded = guarded_topology
    empty(guarded.url("admin"))
    if broker_url := guarded.broker_url("admin"):
        empty(broker_url)
    guarded.denials()
    with upstream_in_thread(reply=lambda asked: f"echo of {asked}") as upstream:
        fleet = Fleet(guarded.url("worker"), upstream, guarded.broker_url("worker"))
        broker = for_kombu(guarded.broker_url("producer") or guarded.url("producer"))
        fleet.app = Celery(broker=broker.url, set_as_current=False)
        fleet.app.conf.broker_transport_options = broker.transport_options
        fleet.app.conf.broker_transport = broker.transport
        with guarded.client("admin") as fleet.redis:
            yield fleet


async def test_every_service_works_as_its_own_user(
    guarded_topology: GuardedTopology, fleet: Fleet, tmp_path: Path
) -> None:
    guarded = guarded_topology
    broker_url = {"broker_url": url} if (url := guarded.broker_url("gateway")) else {}
    async with as_producer(guarded) as producer, as_subscriber(guarded) as subscriber:
        with fleet.worker("-c", "4", **QUICK_LEASES) as doomed:
            lost = await producer.submit("[[stall:2*1]] a b c d")
            fleet.running(lost)
            doomed.kill()
        with fleet.worker("-c", "4", **QUICK_LEASES) as worker:
            assert (await subscriber.result(lost)).text.endswith(" a b c d")
            bare = fleet.send(prompt("from a bare producer"))
            assert (await subscriber.result(bare)).text == "echo of from a bare producer"
            assert cli(guarded, "subscriber", "tail", bare).returncode == 0
            cancelled = fleet.send(prompt("[[endless]] [[drip:0.01]]"))
            fleet.running(cancelled)
            assert cli(guarded, "operator", "cancel", cancelled).returncode == 0
            assert fleet.ended(cancelled)[-1]["type"] == "cancelled"
            status = wait_until(lambda: top_of(guarded, "operator", capacity=4), "the worker")
            assert (status["waiting"], status["dead_letters"]) == (0, 0)
            for user in ("operator", "worker"):
                doctor = cli(guarded, user, "doctor", "--no-login")
                assert doctor.returncode == 0, doctor.stdout
            async with serve(guarded.url("gateway"), tmp_path, **broker_url) as gateway:
                await use(gateway)
            dead = {"job_id": "", "reason": "x", "job": json.dumps(prompt("again"))}
            fleet.redis.xadd(names.DEAD_LETTERS, dead)
            entry = cli(guarded, "operator", "dead", "list").stdout.split()[0]
            replayed = cli(guarded, "operator", "dead", "replay", entry).stdout.strip()
            assert text_of(fleet.ended(replayed)) == "echo of again"
            listed = cli(guarded, "operator", "list").stdout
            assert {lost, replayed} <= {line.split()[0] for line in listed.splitlines()}
            assert worker.stop() == 0
        assert "NOPERM" not in worker.log
    # A reader asks for the record, which it may not read, and then reads the log instead. The
    # doctor asks each node of a cluster for a setting, which no user may read.
    assert {line.partition(": ")[2] for line in guarded.denials()} <= {
        *("command hmget in toplevel", "command config|get in toplevel")
    }


async def use(gateway: Harness) -> None:
    """Send each kind of request to a gateway once."""
    text = {"messages": [{"role": "user", "content": "by HTTP"}], "model": "gpt-4o"}
    job_id = await answered(gateway, "POST", "/v1/jobs", 202, "job_id", json=text)
    ticket = await answered(gateway, "POST", f"/v1/jobs/{job_id}/tickets", 201, "ticket")
    url = f"{gateway.url}/v1/jobs/{job_id}/events?ticket={ticket}"
    async with gateway.http.get(url) as events:
        assert "event: completed" in await events.text()
    assert await answered(gateway, "GET", f"/v1/jobs/{job_id}", 200, "status") == "completed"
    listed = await answered(gateway, "GET", "/v1/jobs", 200, "jobs")
    assert job_id in {each["job_id"] for each in listed}
    asked = {"model": "gpt-4o", "messages": text["messages"]}
    [choice] = await answered(gateway, "POST", "/v1/chat/completions", 200, "choices", json=asked)
    assert choice["message"]["content"] == "echo of by HTTP"
    asked = {"model": "gpt-4o", "input": "by HTTP"}
    reply = await answered(gateway, "POST", "/v1/responses", 200, "status", json=asked)
    assert reply == "completed"
    endless = {"messages": [{"role": "user", "content": "[[endless]] [[drip:0.01]]"}]}
    job_id = await answered(gateway, "POST", "/v1/jobs", 202, "job_id", json=endless)
    status, *_ = await gateway.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert status < 300
    _, _, fleet = await gateway.call("GET", "/v1/fleet", tenant="operator")
    assert len(fleet["workers"]) == 1
    kind = fleet["topology"]["kind"]
    assert (fleet["topology"]["primaries"], fleet["topology"]["away"]) == (
        {"sentinel": 1, "cluster": 3}[kind],
        [],
    )


async def answered(
    gateway: Harness, method: str, path: str, expected: int, field: str, **options: Any
) -> Any:
    """Return a field of the JSON reply to a request."""
    status, _, body = await gateway.call(method, path, **options)
    assert status == expected, body
    return body[field]


FORBIDDEN = {
    "producer subscriber worker operator monitor": [
        "CLUSTER RESET", "CLUSTER FAILOVER", "CLUSTER FORGET x", "CLUSTER MEET 127.0.0.1 1",
        "CLUSTER SETSLOT 1 STABLE", "CLUSTER DELSLOTS 1", "CLUSTER GETKEYSINSLOT 1 1", "FAILOVER",
        "CLUSTER REPLICATE x", "REPLICAOF NO ONE", "KEYS *", "CONFIG GET *", "FLUSHALL",
        "PUBSUB SHARDCHANNELS", "SSUBSCRIBE secret",
    ],
    "producer subscriber monitor": [
        f"SPUBLISH {names.sharded_channel(OTHERS_JOB)} forged", "CLUSTER SHARDS", "INFO",
        f"HGET {STATE} job", "ZRANGE worker:due:{00} 0 -1", f"HGETALL {TOKEN}",
        f"EVAL return(redis.call('HGET',KEYS[1],'job')) 1 {STATE}",
    ],
    "producer monitor": [f"SSUBSCRIBE {names.sharded_channel(OTHERS_JOB)}", f"XRANGE {LOG} - +"],
}  # fmt: skip


def test_user_has_no_right_beyond_its_work(guarded_topology: GuardedTopology) -> None:
    guarded = guarded_topology
    allowed, moved = [], 0
    for server in guarded.topology.servers:  # a replica has the same users
        for users, commands in FORBIDDEN.items():
            for user in users.split():
                login = {"username": user, "password": guarded.passwords[user]}
                with redis.Redis(port=server.port, **login) as client:
                    for command in commands:
                        try:
                            client.execute_command(*command.split())
                            allowed.append((user, command))
                        except MovedError:  # a node that has the key refuses it
                            moved += 1
                        except RedisError as error:
                            if not NOPERM.search(str(error)):
                                allowed.append((user, f"{command}: {error}"))
    assert allowed == []
    # The one command that a producer may send, with an effect that it may not have.
    nodes = len(guarded.topology.servers)
    assert moved in {0, nodes - 1}
