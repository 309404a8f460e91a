"""The statistics of the benchmark. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of ascending values; raises ``ValueError`` for none."""
    if not ordered:
        raise ValueError("no values")
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]


@dataclass(frozen=True, slots=True)
class Summary:
    """The rounds of one measurement. ``spread`` is half their range, divided by the median."""

    median: float
    spread: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Summarise at least one value; raises ``ValueError`` if there is none."""
        if not values:
            raise ValueError("no values")
        median = statistics.median(values)
        half = (max(values) - min(values)) / 2
        return cls(median, half / median if median else 0.0, len(values))

    def ratio(self, to: "Summary") -> float | None:
        """Return how many times ``to`` this is."""
        return self.median / to.median if to.median else None


def jobs_a_second(heard_ns: Sequence[int]) -> float | None:
    """Return the rate of jobs without the first tenth, in which a worker starts up.

    ``None`` if there are too few.
    """
    ordered = sorted(heard_ns)
    begin = len(ordered) // 10
    counted = len(ordered) - 1 - begin
    if counted < 1 or ordered[-1] == ordered[begin]:
        return None
    return counted / ((ordered[-1] - ordered[begin]) / 1e9)
