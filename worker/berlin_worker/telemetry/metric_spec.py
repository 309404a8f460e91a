"""The description of one metric. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from berlin_worker.telemetry.counts import Counts, Histogram, Histograms, Labels
from berlin_worker.telemetry.gauges import Gauges
from berlin_worker.telemetry.stats import Stats

Number = int | float


Samples = Iterable[tuple[Labels, Number | Histogram]]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its name and kind, and how its samples are read."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str
    read: Callable[[Stats, Gauges], Samples]


def one(value: Number | Histogram | None) -> Samples:
    """Return the sample of a metric without labels; none for ``None``."""
    return [] if value is None else [((), value)]


def each(found: Counts | Histograms, *first: str) -> Samples:
    """Return a sample for each combination of labels, after the labels ``first``."""
    return [((*first, *labels), value) for labels, value in found.items()]


def by_name(found: Mapping[str, Number], *first: str) -> Samples:
    """Return a sample for each name, which is the last label, after the labels ``first``."""
    return [((*first, name), value) for name, value in found.items()]
