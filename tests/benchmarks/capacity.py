"""``python -m tests.benchmarks.capacity``: what a number of streams requires. Pure arithmetic.

A fleet is as large as its first limit lets it be: a core of a worker, a core of a node
(Redis runs commands on one), the memory of the logs until they expire, a network card, or the
one Redis of the queue. The costs are measured: those of a worker by ``make bench``, if its figures
are published, those of an event store by ``tests.benchmarks.cluster``, on one Redis and on
a cluster: there each event is a call of its own within a batch.

The formulae, for ``n`` streams with ``r`` chunks a second each, ``c`` chunks to a job:

    chunks a second   C = n r                jobs a second  J = C / c
    events in a batch k = max(1, C / processes / nodes * period_s): the round trip, on a cluster
                          at least a turn of the journal
    worker cores      (C (chunk_us + [cluster_chunk_us] + batch_us / k) + J job_us) / 1e6 / busy
    worker memory     n stream_bytes + processes idle_bytes
    event store cores (C (event_us + [cluster_event_us]
                       + (store_batch_us + (1 - busy) store_wake_us) / k) + J store_job_us
                       + n / renew_interval_s renewal_us) / 1e6 / busy
    log memory        (log_ttl_s + c / r) (C event_bytes + J record_bytes)
    network           C in_bytes in; C out_bytes for each reader of a job out
    queue cores       J queue_job_us / 1e6 / busy
    login             one in WORKER_TOKEN_TTL_S, for the whole fleet
"""

import json
import math
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.marks import between

FIGURES: Final = Path(__file__).with_name("figures.json")
README: Final = Path(__file__).parents[2] / "deploy/README.md"
STREAMS: Final = (1_000, 100_000, 1_000_000)
_LONG_S: Final = 3600
_SHORT_S: Final = 300
_FEW: Final = (4, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The cost of one of each; the defaults were measured on 2 cores with other work, too."""

    chunk_us: float = 50.0
    """CPU of a worker, from the upstream's bytes to the store, less its part of a call."""
    batch_us: float = 110.0
    """CPU of a worker for a batch to one server, however many events it holds."""
    bench_events_a_batch: float = 10.0
    """How many events it holds in ``make bench``: about what gathers in a round trip."""
    cluster_chunk_us: float = 8.0
    """Further CPU of a worker for a chunk on a cluster."""
    round_trip_s: float = 1e-3
    turn_s: float = 2e-3
    """How often a worker sends a batch to a node of a cluster at most."""
    job_us: float = 780.0
    """CPU of a worker for a job besides its chunks."""
    stream_bytes: float = 48_000.0
    idle_bytes: float = 90e6
    """Memory of a worker process that waits."""
    event_us: float = 10.5
    """CPU of the event store to append an event and publish it to one reader."""
    store_batch_us: float = 9.0
    """CPU of a server to read a batch, to reply and to write to readers, while it is awake."""
    store_wake_us: float = 79.0
    """Further CPU for a batch that wakes the server: of all batches a share of 1 - busy."""
    cluster_event_us: float = 2.0
    """Further CPU for an event on a cluster: there each event is a call of the script."""
    store_job_us: float = 130.0
    """CPU of the event store for the record of a job: submitted, claimed, ended."""
    renewal_us: float = 3.0
    event_bytes: float = 124.0
    """Memory of an event in the log: its JSON, which carries the job ID, and the entry."""
    record_bytes: float = 4_800.0
    """Memory of a job that is over, besides its chunks: an empty stream alone takes 4.4 kB."""
    in_bytes: float = 340.0
    out_bytes: float = 209.0
    queue_job_us: float = 103.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load of a fleet, and the share of each resource that it may use."""

    streams: int
    chunks_a_second: float = 20.0
    chunks_a_job: float = 400.0
    readers_a_job: float = 1.0
    log_ttl_s: float = _LONG_S
    renew_interval_s: float = 2.0
    busy: float = 0.6
    """Share of a core that may be used: beyond it waiting grows without bound."""
    store_memory_bytes: float = 32e9
    """Of one node. Beyond this a restart takes minutes, and a fork of it as much again."""
    network_bits_a_second: float = 10e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a fleet takes. ``nodes_by``: how many nodes of a Redis Cluster each limit requires."""

    chunks_a_second: float
    jobs_a_second: float
    events_a_batch: float
    worker_cores: float
    worker_processes: int
    worker_bytes: float
    store_cores: float
    log_bytes: float
    network_bits_a_second: float
    nodes_by: dict[str, int]
    queue_cores: float

    @property
    def nodes(self) -> int:
        """Primaries of a Redis Cluster, or one Redis."""
        return max(self.nodes_by.values())

    @property
    def limit(self) -> str:
        """What decides how many nodes there are; empty if one will do."""
        return max(self.nodes_by, key=self.nodes_by.__getitem__) if self.nodes > 1 else ""


def worker_us(costs: Costs, *, events_a_batch: float, cluster: bool) -> float:
    """Return the CPU of a worker for a chunk, µs."""
    return costs.chunk_us + cluster * costs.cluster_chunk_us + costs.batch_us / events_a_batch


def store_us(costs: Costs, *, events_a_batch: float, cluster: bool, busy: float) -> float:
    """Return the CPU of all servers of the event store for a chunk, µs, besides jobs and leases.

    ``busy``: which share of its time a server works.
    """
    batch_us = costs.store_batch_us + (1 - busy) * costs.store_wake_us
    return costs.event_us + cluster * costs.cluster_event_us + batch_us / events_a_batch


def need(load: Load, costs: Costs) -> Need:
    """Apply the formulae at the top of this file.

    A share of a core counts as a whole process, store or queue.

    More nodes mean fewer events in each batch, and so more work: the number is raised
    until it is enough for itself.
    """
    nodes = 1
    while (found := _with(load, costs, nodes)).nodes > nodes:
        nodes = found.nodes
    return found


def _with(load: Load, costs: Costs, nodes: int) -> Need:
    chunks = load.streams * load.chunks_a_second
    jobs = chunks / load.chunks_a_job
    processes, together = 1, costs.bench_events_a_batch
    cluster = nodes > 1
    period_s = max(costs.round_trip_s, costs.turn_s) if cluster else costs.round_trip_s
    for _ in range(50):  # each depends on the other; they settle much earlier
        workers_us = chunks * worker_us(costs, events_a_batch=together, cluster=cluster)
        workers_us += jobs * costs.job_us
        processes = math.ceil(_cores(load, workers_us))
        together = max(1.0, chunks / processes / nodes * period_s)
    servers_us = chunks * store_us(costs, events_a_batch=together, cluster=cluster, busy=load.busy)
    servers_us += jobs * costs.store_job_us
    servers_us += load.streams / load.renew_interval_s * costs.renewal_us
    logged_s = load.log_ttl_s + load.chunks_a_job / load.chunks_a_second
    log_bytes = logged_s * (chunks * costs.event_bytes + jobs * costs.record_bytes)
    bits = 8 * chunks * max(costs.in_bytes, costs.out_bytes * load.readers_a_job)
    return Need(
        chunks_a_second=chunks,
        jobs_a_second=jobs,
        events_a_batch=together,
        worker_cores=_cores(load, workers_us),
        worker_processes=processes,
        worker_bytes=load.streams * costs.stream_bytes + processes * costs.idle_bytes,
        store_cores=_cores(load, servers_us),
        log_bytes=log_bytes,
        network_bits_a_second=bits,
        nodes_by={
            "CPU": math.ceil(_cores(load, servers_us)),
            "memory": math.ceil(log_bytes / load.store_memory_bytes),
            "network": math.ceil(bits / (load.network_bits_a_second * load.busy)),
        },
        queue_cores=_cores(load, jobs * costs.queue_job_us),
    )


def fleets(load: Load, costs: Costs, *, nodes_at_most: int) -> tuple[int, Need]:
    """Return how many equal fleets, each with a queue of its own, and what each of them takes.

    So many that none needs more nodes than that, and one Redis serves its queue.
    """
    count = 1
    while True:
        each = need(replace(load, streams=math.ceil(load.streams / count)), costs)
        if each.nodes <= nodes_at_most and each.queue_cores <= 1:
            return count, each
        count += 1


def _cores(load: Load, us_a_second: float) -> float:
    return us_a_second / 1e6 / load.busy


def costs_of(figures: dict[str, Any]) -> Costs:
    """Return the costs that ``figures.json`` of ``make bench`` holds, defaults for the others."""
    runs = [run for run in figures.get("runs", []) if run.get("contender") == "ours"]
    chunk_us = _median(runs, "flight-5000", "steady_cpu_us_a_chunk") or _median(
        runs, "stream", "cpu_us_a_chunk"
    )
    costs = Costs()
    found = {
        "chunk_us": chunk_us and chunk_us - costs.batch_us / costs.bench_events_a_batch,
        "stream_bytes": _median(runs, "flight-5000", "memory_a_stream"),
        "idle_bytes": _median(runs, "memory", "idle_memory_bytes"),
        "job_us": _median(runs, "jobs", "cpu_us_a_chunk"),
    }
    return replace(costs, **{name: value for name, value in found.items() if value})


def _median(runs: Iterable[dict[str, Any]], scenario: str, figure: str) -> float | None:
    values = [run[figure] for run in runs if run["scenario"] == scenario and figure in run]
    return statistics.median(values) if values else None


def table(costs: Costs) -> str:
    """Return a Markdown table: for each number of streams one fleet, and fleets of few nodes."""
    head = [
        *("streams", "fleets", "nodes", "events a batch", "worker cores", "worker memory"),
        *("store cores", "logs for 60 min", "for 5 min", "network", "each queue", "first limit"),
    ]
    lines = [_row(head), _row(["---"] * len(head))]
    for streams in STREAMS:
        load = Load(streams=streams)
        lines.append(_shown(load, costs, 1, need(load, costs)))
        for few in _FEW:
            count, each = fleets(load, costs, nodes_at_most=few)
            if count > 1:
                lines.append(_shown(load, costs, count, each))
    return "\n".join(lines)


def _shown(load: Load, costs: Costs, count: int, each: Need) -> str:
    short = need(replace(load, log_ttl_s=_SHORT_S), costs)
    limit = "the queue" if each.queue_cores > 1 else each.limit
    return _row(
        [
            f"{load.streams:,}",
            f"{count:,}",
            f"{count * each.nodes:,}",
            f"{each.events_a_batch:.1f}",
            _number(count * each.worker_cores),
            _bytes(count * each.worker_bytes),
            _number(count * each.store_cores),
            _bytes(count * each.log_bytes),
            _bytes(short.log_bytes),
            f"{_number(count * each.network_bits_a_second / 1e9)} Gbit/s",
            f"{_number(each.queue_cores)} cores",
            limit or "none",
        ]
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _bytes(value: float) -> str:
    return f"{_number(value / 1e12)} TB" if value >= 1e12 else f"{_number(value / 1e9)} GB"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def filled(readme: str, costs: Costs) -> str:
    """Return ``readme`` with the table between its marks."""
    return between(readme, "capacity", table(costs))


def published() -> Costs:
    """Return the costs of the figures beside this file; the defaults without figures."""
    return costs_of(json.loads(FIGURES.read_text())) if FIGURES.exists() else Costs()


if __name__ == "__main__":
    if "--readme" in sys.argv[1:]:
        README.write_text(filled(README.read_text(encoding="utf-8"), published()), encoding="utf-8")
    else:
        print(table(published()))
