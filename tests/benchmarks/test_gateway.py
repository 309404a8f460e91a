"""The gateway's benchmark runs, and compares what it finds with the targets."""

import pytest

from berlin_worker.embedded.redis_server import RedisProcess
from tests.benchmarks.gateway.__main__ import OUT, results, streams

pytestmark = pytest.mark.integration


@pytest.mark.usefixtures("real_redis_url")  # it empties the server
def test_readers_get_every_chunk_through_the_gateway(redis_server: RedisProcess) -> None:
    OUT.mkdir(exist_ok=True)
    figures = streams(redis_server, "gateway", jobs=5, chunks=3)
    assert figures["sound"]
    assert figures["chunks"] == 15
    assert figures["lag_ms"]["p50"] > 0


def test_medians_are_compared_with_the_targets() -> None:
    runs = [
        {"part": "streams", "by": by, "cpu_us_a_chunk": cpu, "lag_ms": {"p99": lag}}
        for by, cpu, lag in (
            ("gateway", 60, 30), ("gateway", 40, 20), ("gateway", 50, 25), ("bare", 100, 9),
            ("direct", 10, 5),
        )
    ]  # fmt: skip
    found = results(runs)  # type: ignore[arg-type]  # a list of plain dicts
    assert [(each["found"], each["met"]) for each in found] == [(0.5, True), (20, False)]
    assert results([]) == []
