"""`berlin top`: what it reads from Redis and from a broker on another server."""

from collections.abc import Iterator

import pytest
import redis

from berlin_schemas import names
from berlin_worker.cli.preflight import open_redis
from berlin_worker.client.fleet_reader import read
from berlin_worker.embedded.redis_server import free_port
from berlin_worker.settings import Settings
from berlin_worker.storage.heartbeat import WorkerStatus

pytestmark = pytest.mark.contract


def settings(url: str, **env: str) -> Settings:
    return Settings.from_env({"REDIS_URL": url, **env})


def said(worker: str) -> str:
    status = WorkerStatus(worker=worker, host="h", pid=1, version="1", started_ts=1.0)
    return status.model_dump_json()


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


def test_queue_of_an_unreachable_broker_is_unknown(client, redis_url):
    elsewhere = redis_url.replace("/0", "/1")
    with open_redis(elsewhere) as broker:
        broker.rpush(names.QUEUE, "a", "b")
    assert read(client, settings(redis_url, CELERY_BROKER_URL=elsewhere)).waiting == 2
    for away in (f"redis://127.0.0.1:{free_port()}/0", f"amqp://127.0.0.1:{free_port()}//"):
        assert read(client, settings(redis_url, CELERY_BROKER_URL=away)).waiting is None
