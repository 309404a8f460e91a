"""The metrics of a worker for Prometheus, rendered when they are scraped.

``python -m berlin_worker.telemetry.metrics`` prints the table of all metrics
(:mod:`berlin_worker.telemetry.metric_specs`).
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from berlin_worker.telemetry.counts import Histogram
from berlin_worker.telemetry.gauges import Gauges
from berlin_worker.telemetry.metric_spec import MetricSpec, Samples
from berlin_worker.telemetry.metric_specs import PROCESS, TABLE
from berlin_worker.telemetry.stats import Stats


class StatsCollector(Collector):
    """Renders ``stats``, and what ``read`` returns at that time, for each scrape."""

    def __init__(self, stats: Stats, read: Callable[[], Gauges]) -> None:
        self._stats = stats
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each metric of the table."""
        reading = self._read()
        for row in TABLE:
            yield _family(row, row.read(self._stats, reading))

    def describe(self) -> Iterator[Metric]:
        """Return the names alone: registering must not read anything."""
        return (_family(row, ()) for row in TABLE)


def registry(stats: Stats, read: Callable[[], Gauges]) -> CollectorRegistry:
    """Return a registry of the table and of the process, and of nothing else."""
    made = CollectorRegistry()
    made.register(StatsCollector(stats, read))
    ProcessCollector(registry=made)
    return made


def _family(row: MetricSpec, samples: Samples) -> Metric:
    if row.kind == "histogram":
        histograms = HistogramMetricFamily(row.name, row.help, labels=row.labels)
        for labels, value in samples:
            assert isinstance(value, Histogram), row.name
            histograms.add_metric(labels, *_cumulative(value))
        return histograms
    family = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    plain = family(row.name, row.help, labels=row.labels)
    for labels, value in samples:
        assert not isinstance(value, Histogram), row.name
        plain.add_metric(labels, value)
    return plain


def _cumulative(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    buckets, seen = [], 0
    bounds = (*map(str, histogram.bounds), "+Inf")
    for bound, count in zip(bounds, histogram.counts.copy(), strict=True):
        seen += count
        buckets.append((bound, float(seen)))
    return buckets, histogram.sum


def table() -> str:
    """Return all metrics as a Markdown table."""
    rows = [
        *((row.name, row.kind, ", ".join(row.labels), row.help) for row in TABLE),
        *((name, kind, "", text) for name, kind, text in PROCESS),
    ]
    lines = (f"| `{name}` | {kind} | {labels} | {text} |" for name, kind, labels, text in rows)
    return "\n".join(["| metric | type | labels | meaning |", "| --- | --- | --- | --- |", *lines])


if __name__ == "__main__":
    print(table())  # noqa: T201  # printing it is the purpose
