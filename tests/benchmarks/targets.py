"""The targets, and whether they were reached. Pure."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.scenarios import PEERS, QUEUES

Runs = Sequence[dict[str, Any]]
_CPU_TO_FLOOR = 1.5
_CPU_TO_BEST_PEER = 1 / 3
_CPU_GROWTH = 1.2
_KB_A_STREAM = 45.0
_LAG_TO_FLOOR = 2.0
_FIRST_CHUNK_MS = 5.0
_TWO_WORKERS = 1.7


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target; ``held`` is ``None`` if the run does not have its figures."""

    target: str
    measured: str
    held: bool | None


def verdicts(runs: Runs, *, upstream_ms: float) -> list[Verdict]:
    """Return every target, in the order in which it was set."""
    return list(_verdicts(_Medians(runs), upstream_ms))


class _Medians:
    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def __call__(self, scenario: str, contender: str, *path: str) -> float | None:
        values = []
        for run in self._runs:
            if (run["scenario"], run["contender"]) == (scenario, contender):
                value: Any = run
                for key in path:
                    value = value.get(key) if isinstance(value, dict) else None
                if value is not None:
                    values.append(value)
        return statistics.median(values) if values else None

    def best(self, scenario: str, contenders: Sequence[str], key: str, pick: Any) -> Any:
        """Return ``(figure, contender)`` of the best of them; ``None`` if none has the figure."""
        found = [(v, c) for c in contenders if (v := self(scenario, c, key)) is not None]
        return pick(found) if found else None


def _verdicts(median: _Medians, upstream_ms: float) -> Iterator[Verdict]:
    # The target names no pace, so a slow one and the fastest are both measured.
    for scenario, pace in (("stream", "10 a second each"), ("flat", "flat out")):
        ours = median(scenario, "ours", "cpu_us_a_chunk")
        yield _at_most(
            f"CPU a chunk, 1,000 streams x 200 chunks, {pace}: <= 1.5 x the floor",
            *(ours, median(scenario, "floor", "cpu_us_a_chunk"), _CPU_TO_FLOOR, "µs"),
        )
        best = median.best(scenario, PEERS, "cpu_us_a_chunk", min)
        yield _at_most(
            f"the same: <= 1/3 of the best peer{f' ({best[1]})' if best else ''}",
            *(ours, best and best[0], _CPU_TO_BEST_PEER, "µs"),
        )
    yield _at_most(
        "from 100 to 5,000 streams in flight: CPU a chunk grows by <= 20 %",
        median("flight-5000", "ours", "steady_cpu_us_a_chunk"),
        *(median("flight-100", "ours", "steady_cpu_us_a_chunk"), _CPU_GROWTH, "µs"),
    )
    memory = median("flight-5000", "ours", "memory_a_stream")
    yield Verdict(
        "memory for each stream in flight at 5,000: <= 45 KB",
        "—" if memory is None else f"{memory / 1000:.1f} KB",
        None if memory is None else memory <= _KB_A_STREAM * 1000,
    )
    yield _at_most(
        "lag at 1,000 streams x 10 chunks/s: p99 <= 2 x the floor's",
        median("stream", "ours", "steady_lag_ms", "p99"),
        *(median("stream", "floor", "steady_lag_ms", "p99"), _LAG_TO_FLOOR, "ms"),
    )
    first = median("idle", "ours", "first_chunk_ms", "p50")
    yield Verdict(
        "enqueue to first chunk, idle: p50 <= 5 ms over the upstream's own",
        "—" if first is None else f"{first:.1f} ms, the upstream's own {upstream_ms:.1f} ms",
        None if first is None else first - upstream_ms <= _FIRST_CHUNK_MS,
    )
    rate = median("jobs", "ours", "jobs_a_second")
    peer = median.best("jobs", QUEUES, "jobs_a_second", max)
    yield Verdict(
        f"jobs of one chunk a second: >= the best queue{f' ({peer[1]})' if peer else ''}",
        "—" if rate is None else f"{rate:,.0f}" + (f" beside {peer[0]:,.0f}" if peer else ""),
        None if rate is None or peer is None else rate >= peer[0],
    )
    one = median("workers-1", "ours", "chunks_a_second")
    two = median("workers-2", "ours", "chunks_a_second")
    busy = median("workers-2", "ours", "busy", "machine")
    yield Verdict(
        "two workers: >= 1.7 x one, where the machine leaves room",
        "—" if not (one and two) else f"{two / one:.2f} x, {busy:.1f} cores busy of the machine's",
        None if not (one and two) else two / one >= _TWO_WORKERS,
    )
    lost = median("reader", "ours", "reader", "lost")
    connections = median("reader", "ours", "reader", "connections")
    cost = median("reader", "ours", "reader", "cpu_us_a_chunk")
    yield Verdict(
        "one reader of 5,000 jobs: one connection, nothing lost",
        "—"
        if cost is None
        else f"connections: {connections:.0f}, lost: {lost:.0f}, {cost:.0f} µs a chunk",
        None if cost is None else lost == 0 and connections == 1,
    )


def _at_most(
    target: str, figure: float | None, beside: float | None, ratio: float, unit: str
) -> Verdict:
    if figure is None or not beside:
        return Verdict(target, "—", None)
    detail = f"{figure:.1f} {unit} beside {beside:.1f}: {figure / beside:.2f} x"
    return Verdict(target, detail, figure <= ratio * beside)
