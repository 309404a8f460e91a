"""Numbers that one thread adds to and any thread reads. Pure."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

Labels = tuple[str, ...]
"""Values of labels, in the order in which the metric names them."""

CALL_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class Counts:
    """Counts events, for each combination of label values.

    Those that are ``known`` begin at 0, so that a rate includes their first increase.
    """

    __slots__ = ("_values",)

    def __init__(self, *known: Labels) -> None:
        self._values: dict[Labels, int] = dict.fromkeys(known, 0)

    def add(self, *labels: str, n: int = 1) -> None:
        """Add ``n`` to the count of ``labels``."""
        self._values[labels] = self._values.get(labels, 0) + n

    def items(self) -> Iterable[tuple[Labels, int]]:
        """Return each combination of labels with its count: a copy."""
        return self._values.copy().items()  # one step: another thread may add meanwhile

    @property
    def total(self) -> int:
        """The sum over all combinations."""
        return sum(self._values.copy().values())


class Histogram:
    """Counts values by the first of ``bounds`` that they do not exceed.

    ``counts`` has a number for each interval alone, not cumulative; the last one is for values
    above all bounds.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value``, ``times`` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """Return the value below which the share ``q`` of all lies, interpolated in its interval.

        Like Prometheus' ``histogram_quantile`` it returns the last bound for any value above it.
        ``None`` if no value was counted.
        """
        counts = self.counts.copy()
        rank, below, low = q * sum(counts), 0, 0.0
        if not any(counts):
            return None
        for high, count in zip(self.bounds, counts, strict=False):
            if count and below + count >= rank:
                return low + (high - low) * (rank - below) / count
            below, low = below + count, high
        return self.bounds[-1]


class Histograms:
    """One :class:`Histogram` for each combination of label values."""

    __slots__ = ("_bounds", "_each")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._each: dict[Labels, Histogram] = {}

    def of(self, *labels: str) -> Histogram:
        """Return the histogram of these label values; it is kept, so their set must be bounded."""
        found = self._each.get(labels)
        if found is None:
            found = self._each[labels] = Histogram(self._bounds)
        return found

    def items(self) -> Iterable[tuple[Labels, Histogram]]:
        """Return each combination of labels with its histogram: a copy of the table."""
        return self._each.copy().items()

    def merged(self) -> Histogram:
        """Return one histogram with the sums of all."""
        whole = Histogram(self._bounds)
        for each in self._each.copy().values():
            whole.counts = [a + b for a, b in zip(whole.counts, each.counts, strict=True)]
            whole.sum += each.sum
        return whole
