"""`berlin top`: what it reads from Redis and from a broker on another server."""

import json
from collections.abc import Callable, Iterator

import pytest
import redis
from click.testing import CliRunner

from berlin_schemas import names
from berlin_worker.cli import main
from berlin_worker.cli.preflight import open_redis
from berlin_worker.client.fleet_reader import read
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.settings import Settings
from berlin_worker.storage.heartbeat import WorkerStatus

pytestmark = pytest.mark.contract


def settings(url: str, **env: str) -> Settings:
    return Settings.from_env({"REDIS_URL": url, **env})


TYPES = {"string", "list", "set", "hash", "zset", "stream"}


def write_of_type(client: redis.Redis, kind: str, key: str) -> None:
    """Replace ``key`` by a value of this type."""
    client.delete(key)
    write: dict[str, Callable[[], object]] = {
        "string": lambda: client.set(key, "x"),
        "list": lambda: client.rpush(key, "x"),
        "set": lambda: client.sadd(key, "x"),
        "hash": lambda: client.hset(key, "x", "y"),
        "zset": lambda: client.zadd(key, {"x": 1}),
        "stream": lambda: client.xadd(key, {"x": "y"}),
    }
    write[kind]()


def said(worker: str) -> str:
    status = WorkerStatus(worker=worker, host="h", pid=1, version="1", started_ts=1.0)
    return status.model_dump_json()


BOTH = (said("alive"), said("foreign"))


@pytest.fixture
def client(redis_url) -> Iterator[redis.Redis]:
    with open_redis(redis_url) as client:
        yield client


def test_empty_redis_has_no_workers_and_an_empty_queue(client, redis_url):
    raw = read(client, settings(redis_url))
    assert (list(raw.statuses), raw.waiting, raw.dead_letters) == ([], 0, 0)
    assert raw.now_ts == pytest.approx(client.time()[0], abs=5)


def test_only_running_workers_are_read(client, redis_url):
    later_ms = (client.time()[0] + 100) * 1000
    client.zadd(names.FLEET, {"alive": later_ms, "just gone": later_ms, "long gone": 1})
    client.set(names.alive_key("alive"), said("alive"))
    client.set(names.alive_key("long gone"), said("long gone"))
    assert read(client, settings(redis_url)).statuses == [said("alive")]


def test_queue_depth_counts_all_priorities(client, redis_url):
    client.rpush(names.QUEUE, "a", "b")
    client.rpush(f"{names.QUEUE}\x06\x163", "with a priority")
    client.xadd(names.DEAD_LETTERS, {"job_id": "x"})
    raw = read(client, settings(redis_url))
    assert (raw.waiting, raw.dead_letters) == (3, 1)


@pytest.mark.parametrize(
    ("key", "missing"),
    [
        (names.FLEET, ((), 3, 1)),
        (names.alive_key("foreign"), ((said("alive"),), 3, 1)),
        (names.DEAD_LETTERS, (BOTH, 3, 0)),
        (names.QUEUE, (BOTH, 1, 1)),
        (f"{names.QUEUE}\x06\x163", (BOTH, 2, 1)),
    ],
)
def test_value_of_a_wrong_type_is_missing_and_hides_no_other(real_redis_url, key, missing):
    with open_redis(real_redis_url) as client:
        later_ms = (client.time()[0] + 100) * 1000
        client.zadd(names.FLEET, {"alive": later_ms, "foreign": later_ms})
        client.set(names.alive_key("alive"), said("alive"))
        client.set(names.alive_key("foreign"), said("foreign"))
        client.rpush(names.QUEUE, "a", "b")
        client.rpush(f"{names.QUEUE}\x06\x163", "with a priority")
        client.xadd(names.DEAD_LETTERS, {"job_id": "x"})
        right = client.type(key)
        for kind in TYPES - {right}:
            write_of_type(client, kind, key)
            raw = read(client, settings(real_redis_url))
            assert (tuple(raw.statuses), raw.waiting, raw.dead_letters) == missing, kind


def test_commands_take_keys_of_a_wrong_type_for_missing_ones(real_redis_url):
    env = {"REDIS_URL": real_redis_url, "CELERY_BROKER_URL": "", "BERLIN_DEBUG": "1"}
    keys = [names.FLEET, names.DEAD_LETTERS, names.QUEUE, names.JOBS, names.DUE_KEYS[0]]
    keys += [names.state_key("job-1"), names.log_key("job-1")]
    expected = {
        ("list",): (0, "no job matches\n"),
        ("dead", "list"): (0, "no dead letters\n"),
        ("dead", "replay", "1-0"): (1, "berlin: dead letter 1-0 does not exist\n"),
        ("status", "job-1"): (1, "berlin: job job-1 "),
        ("top", "--once", "--json"): (0, '{"v": 1, '),
    }
    with open_redis(real_redis_url) as client:
        for kind in ("string", "set"):
            for key in keys:
                write_of_type(client, kind, key)
            for command, (code, start) in expected.items():
                done = CliRunner().invoke(main, command, env=env)
                assert (done.exit_code, done.output[: len(start)]) == (code, start), (kind, command)
            done = CliRunner().invoke(main, ["doctor", "--no-login", "--json"], env=env)
            results = {each["name"]: each for each in map(json.loads, done.stdout.splitlines())}
            assert (results["rights"]["level"], results["workers"]["level"]) == ("ok", "warn")


def test_queue_of_an_unreachable_broker_is_unknown(client, redis_url):
    elsewhere = redis_url.replace("/0", "/1")
    with open_redis(elsewhere) as broker:
        broker.rpush(names.QUEUE, "a", "b")
    assert read(client, settings(redis_url, CELERY_BROKER_URL=elsewhere)).waiting == 2
    for away in (f"redis://127.0.0.1:{free_port()}/0", f"amqp://127.0.0.1:{free_port()}//"):
        assert read(client, settings(redis_url, CELERY_BROKER_URL=away)).waiting is None
