"""The counters of a worker: plain numbers that any module adds to and any reader reads. Pure.

One :class:`Stats` for a process. All of it is written in the event loop's thread, but for what
says otherwise, and read in any. Nothing here depends on the readers: ``berlin_worker.telemetry``
renders it for Prometheus. What happens for each chunk is an attribute of its own, and costs an
addition.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, Final

from berlin_schemas import ErrorCode
from berlin_worker.telemetry.token_usage import tokens_of

Labels = tuple[str, ...]
"""Values of labels, in the order in which the metric names them."""

OUTCOMES: Final = ("completed", "cancelled", "failed")
"""How a job may end: the types of its last event."""

# The bounds that OpenTelemetry's GenAI conventions ask for, up to their 81.92 s, and on to what
# a job may take. https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
_SECONDS: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
    327.68, 655.36,
)  # fmt: skip
_GAP_SECONDS: Final = (0.001, 0.002, 0.005, *_SECONDS[:14])
_TOKENS: Final = tuple(float(4**power) for power in range(14))
_WAIT_SECONDS: Final = (*_SECONDS, 1800.0, 3600.0, 21600.0, 86400.0)
_CALL_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_FLUSH_BYTES: Final = (256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 524288.0)

MODELS_MAX: Final = 16
_OTHER: Final = "other"
_model_name: Final = re.compile(r"[A-Za-z0-9._:/@+-]{1,64}", re.ASCII)


class Counts:
    """Counts events, for each combination of label values.

    Those that are ``known`` stand at 0 from the start: a rate sees their first increase.
    """

    __slots__ = ("_values",)

    def __init__(self, *known: Labels) -> None:
        self._values: dict[Labels, int] = dict.fromkeys(known, 0)

    def add(self, *labels: str, n: int = 1) -> None:
        """It has happened ``n`` times more."""
        self._values[labels] = self._values.get(labels, 0) + n

    def items(self) -> Iterable[tuple[Labels, int]]:
        """Each combination and its count, as they stand now."""
        return self._values.copy().items()  # one step: another thread may add meanwhile

    @property
    def total(self) -> int:
        """Over all combinations."""
        return sum(self._values.copy().values())


class Histogram:
    """Counts values by the first of ``bounds`` that is not exceeded; the last count: the rest.

    ``counts`` are those of each interval alone, not cumulative.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """``value`` was seen, ``times`` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """Return the value below which the share ``q`` of all lies, interpolated in its interval.

        As Prometheus' ``histogram_quantile`` has it: above the last bound, that bound.
        ``None`` where nothing was seen.
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
        """Each combination and its histogram."""
        return self._each.copy().items()

    def merged(self) -> Histogram:
        """All of them as one."""
        whole = Histogram(self._bounds)
        for each in self._each.copy().values():
            whole.counts = [a + b for a, b in zip(whole.counts, each.counts, strict=True)]
            whole.sum += each.sum
        return whole


class Models:
    """Which models are named in metrics: the listed ones, or else the first few that answer.

    All others count as ``other``: a job may name any model, and a label that takes any value
    fills the memory of the metrics server.
    """

    __slots__ = ("_listed", "_named")

    def __init__(self, listed: Iterable[str] = ()) -> None:
        self._named = set(listed)
        self._listed = bool(self._named)

    def label(self, model: str) -> str:
        """``model``, or ``other``."""
        return model if model in self._named else _OTHER

    def answered(self, model: str) -> str:
        """Return the label of a model that has just answered."""
        if (
            not self._listed
            and model not in self._named
            and len(self._named) < MODELS_MAX
            and _model_name.fullmatch(model)
        ):
            self._named.add(model)
        return self.label(model)


class Stats:
    """The numbers of one process since its start; times in seconds.

    Histograms and counts name their labels in the comment beside them. ``error`` is a code of the
    contract, or empty where there was none.
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        self.models = Models(models)
        self.operations = Histograms(_SECONDS)  # provider, model, error
        self.first_chunk = Histograms(_SECONDS)  # provider, model
        self.chunk_gap = Histograms(_GAP_SECONDS)  # provider, model
        self.token_usage = Histograms(_TOKENS)  # provider, model, input or output

        self.deliveries = 0
        self.dropped = Counts(("finished",), ("leased",), ("not_queued",), ("conflict",))  # why
        self.processing = Histograms(_SECONDS)  # error
        self.queue_wait = Histogram(_WAIT_SECONDS)
        self.jobs = Counts(  # outcome, error
            ("completed", ""), ("cancelled", ""), *(("failed", code.value) for code in ErrorCode)
        )
        self.retries = Counts(*((code.value,) for code in ErrorCode))  # error
        self.reclaims = 0
        self.reaped = Counts(("running",), ("queued",))  # what the job was
        self.leases_lost = 0

        self.default_models: Mapping[str, str] = {}
        """The model of a job that names none, by provider."""
        self.chunks = 0
        self.events = 0
        self.event_bytes = 0
        self.fenced = 0
        self.flush_bytes = Histogram(_FLUSH_BYTES)
        self.flush = Histogram(_CALL_SECONDS)
        self.journal_full = 0

        self.logins = Counts()  # provider, error
        self.token_issued: dict[str, float] = {}
        """When the token in use was given out (Unix seconds), by provider."""
        self.loop_lag = Histogram(_CALL_SECONDS)

    def claimed(self, attempt: int, waited_s: float) -> None:
        """Count an attempt that a delivery has begun; ``waited_s``: 0 if it is not known."""
        if attempt > 1:
            self.reclaims += 1
        elif waited_s:
            self.queue_wait.observe(waited_s)

    def operation(
        self,
        provider: str,
        model: str,
        *,
        duration_s: float,
        first_chunk_s: float | None,
        stream_s: float,
        chunks: int,
        error: str = "",
        usage: Mapping[str, Any] | None = None,
    ) -> None:
        """Count a call of an upstream that has ended.

        ``stream_s`` is the time from its first chunk to its last, of ``chunks`` in all: the gaps
        between them count by their mean, once for each. ``usage`` is what the upstream has
        reported, by OpenAI's names.
        """
        for kind, tokens in tokens_of(usage):
            self.token_usage.of(provider, self.models.answered(model), kind).observe(tokens)
        if first_chunk_s is None:
            self.operations.of(provider, self.models.label(model), error).observe(duration_s)
            return
        model = self.models.answered(model)
        self.operations.of(provider, model, error).observe(duration_s)
        self.first_chunk.of(provider, model).observe(first_chunk_s)
        if chunks > 1:
            self.chunk_gap.of(provider, model).observe(stream_s / (chunks - 1), chunks - 1)

    def snapshot(self) -> dict[str, Any]:
        """Return the numbers as plain values for JSON; label values are joined by ``:``."""
        plain = {
            name: getattr(self, name)
            for name in (
                "deliveries", "reclaims", "leases_lost", "chunks", "events", "event_bytes",
                "fenced", "journal_full",
            )
        }  # fmt: skip
        counted = {
            name: {":".join(filter(None, labels)): n for labels, n in counts.items() if n}
            for name, counts in {
                "jobs": self.jobs,
                "dropped": self.dropped,
                "retries": self.retries,
                "reaped": self.reaped,
                "logins": self.logins,
            }.items()
        }
        seen = {
            name: _summary(histogram)
            for name, histogram in {
                "operation_s": self.operations.merged(),
                "first_chunk_s": self.first_chunk.merged(),
                "chunk_gap_s": self.chunk_gap.merged(),
                "queue_wait_s": self.queue_wait,
                "flush_bytes": self.flush_bytes,
                "flush_s": self.flush,
                "loop_lag_s": self.loop_lag,
            }.items()
        }
        tokens: dict[str, dict[str, float]] = {"input": {}, "output": {}}
        for (_, model, kind), histogram in self.token_usage.items():
            tokens[kind][model] = tokens[kind].get(model, 0.0) + histogram.sum
        issued = self.token_issued.copy()
        return (
            plain
            | counted
            | seen
            | {"token_issued": issued, "token_usage": tokens, "models": self._served()}
        )

    def _served(self) -> dict[str, list[str]]:
        served = {provider: {model} for provider, model in self.default_models.items()}
        for provider, model in dict(self.first_chunk.items()):
            if model != _OTHER:
                served.setdefault(provider, set()).add(model)
        return {provider: sorted(models) for provider, models in served.items()}


def _summary(histogram: Histogram) -> dict[str, float | None]:
    return {
        "count": histogram.count,
        "sum": round(histogram.sum, 6),
        "p50": histogram.quantile(0.5),
        "p95": histogram.quantile(0.95),
    }
