"""The capacity model: its arithmetic, what limits what, and the table in the README."""

import dataclasses
import itertools

import pytest

from tests.benchmarks.capacity import (
    README,
    Costs,
    Load,
    costs_of,
    filled,
    fleets,
    need,
    published,
    store_us,
    table,
    worker_us,
)

pytestmark = pytest.mark.unit


def test_thousand_streams_by_hand():
    load = Load(streams=1000, chunks_a_second=20, chunks_a_job=400, log_ttl_s=3580, busy=0.5)
    costs = Costs(
        chunk_us=40, batch_us=100, round_trip_s=1e-3, job_us=1000, stream_bytes=1e4, idle_bytes=1e8,
        event_us=10, store_batch_us=40, store_wake_us=20, store_job_us=100, renewal_us=4,
        event_bytes=100, record_bytes=1000, in_bytes=300, out_bytes=200, queue_job_us=100,
    )  # fmt: skip
    found = need(load, costs)
    # 20,000 chunks and 50 jobs a second; 3 processes: 6,667 chunks a second each.
    assert (found.chunks_a_second, found.jobs_a_second) == (20_000, 50)
    assert found.worker_processes == 3
    assert found.events_a_batch == pytest.approx(20_000 / 3 / 1000)
    assert found.worker_cores == pytest.approx((20_000 * (40 + 15) + 50 * 1000) / 1e6 / 0.5)
    assert found.worker_bytes == 1000 * 1e4 + 3 * 1e8
    store_us = 20_000 * (10 + 7.5) + 50 * 100 + 500 * 4
    assert found.store_cores == pytest.approx(store_us / 1e6 / 0.5)
    assert found.log_bytes == 3600 * (20_000 * 100 + 50 * 1000)
    assert found.network_bits_a_second == 8 * 20_000 * 300
    assert found.queue_cores == pytest.approx(50 * 100 / 1e6 / 0.5)
    assert (found.nodes, found.limit) == (1, "")


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"streams": 20_000, "log_ttl_s": 1.0}, "CPU"),
        ({"streams": 1000, "store_memory_bytes": 1e9}, "memory"),
        ({"streams": 1000, "readers_a_job": 500.0}, "network"),
    ],
)
def test_limit_that_is_reached_first_decides(changes, limit):
    found = need(Load(**changes), Costs())
    assert found.limit == limit
    assert found.nodes == found.nodes_by[limit] > 1


@pytest.mark.parametrize(
    ("cluster", "events_a_batch", "chunk_us", "event_us"),
    [
        (False, 3.8, 69.4, 27.5),
        (True, 3.2, 79.3, 36.9),
        (False, 26.2, 46.5, 15.0),
        (True, 50.5, 55.7, 14.0),
    ],
)
def test_model_agrees_with_runs_of_the_benchmark_of_a_cluster(
    cluster, events_a_batch, chunk_us, event_us
):
    """A round, and the medians of three on busier cores, where more gathers for a batch."""
    costs = Costs(chunk_us=42.0)  # of that machine, that day
    shape = {"events_a_batch": events_a_batch, "cluster": cluster}
    assert worker_us(costs, **shape) == pytest.approx(chunk_us, rel=0.15)
    assert store_us(costs, **shape, busy=0.1) == pytest.approx(event_us, rel=0.15)


def test_more_streams_never_take_less():
    needs = [need(Load(streams=1000 * 2**n), Costs()) for n in range(12)]
    for one, two in itertools.pairwise(needs):
        for field in ("worker_cores", "worker_bytes", "store_cores", "log_bytes", "nodes"):
            assert getattr(two, field) >= getattr(one, field)
        if one.nodes > 1:  # the first cluster has turns longer than the round trip
            assert two.events_a_batch <= one.events_a_batch * 1.5


def test_fleet_has_no_more_stores_than_it_is_allowed_and_one_queue():
    for streams in (1000, 30_000, 1_000_000):
        count, each = fleets(Load(streams=streams), Costs(), nodes_at_most=2)
        assert each.nodes <= 2
        assert each.queue_cores <= 1
        assert count * each.chunks_a_second >= streams * 20
    assert fleets(Load(streams=1000), Costs(), nodes_at_most=1)[0] == 1


def test_measured_costs_take_the_place_of_the_defaults():
    def run(scenario: str, **figures: float) -> dict[str, object]:
        return {"scenario": scenario, "contender": "ours", **figures}

    costs = costs_of(
        {
            "runs": [
                run("flight-5000", steady_cpu_us_a_chunk=40.0, memory_a_stream=30_000.0),
                run("flight-5000", steady_cpu_us_a_chunk=60.0, memory_a_stream=30_000.0),
                run("stream", cpu_us_a_chunk=1.0),
                run("memory", idle_memory_bytes=1e8),
                {"scenario": "flight-5000", "contender": "floor", "steady_cpu_us_a_chunk": 1.0},
            ]
        }
    )
    by_a_batch = costs.batch_us / costs.bench_events_a_batch
    assert costs == dataclasses.replace(
        Costs(), chunk_us=50.0 - by_a_batch, stream_bytes=30_000.0, idle_bytes=1e8
    )
    assert costs_of({"runs": []}) == Costs()


def test_table_in_the_readme_is_that_of_the_model():
    readme = README.read_text(encoding="utf-8")
    assert filled(readme, published()) == readme, "run `make readme`"
    assert table(published()) in readme
