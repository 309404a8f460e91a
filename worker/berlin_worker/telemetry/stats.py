"""The counters of a worker: plain numbers that any module adds to and any reader reads. Pure.

One :class:`Stats` for a process. The event loop's thread writes it, except for attributes that
name another thread; any thread reads it. Nothing here depends on the readers:
``berlin_worker.telemetry`` renders it for Prometheus. A value that each chunk changes is a plain
attribute, so that counting costs one addition.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from berlin_schemas import ErrorCode
from berlin_worker.telemetry.counts import CALL_SECONDS, Counts, Histogram, Histograms
from berlin_worker.telemetry.store_nodes import StoreNodes
from berlin_worker.telemetry.token_usage import tokens_of

OUTCOMES: Final = ("completed", "cancelled", "failed")
"""How a job may end: the types of its last event."""

# Bounds up to 81.92 s are those of OpenTelemetry's GenAI conventions; a job may take longer.
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
_SECONDS: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
    327.68, 655.36,
)  # fmt: skip
_GAP_SECONDS: Final = (0.001, 0.002, 0.005, *_SECONDS[:14])
_TOKENS: Final = tuple(float(4**power) for power in range(14))
_WAIT_SECONDS: Final = (*_SECONDS, 1800.0, 3600.0, 21600.0, 86400.0)
_FLUSH_BYTES: Final = (256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 524288.0)

MODELS_MAX: Final = 16
_OTHER: Final = "other"
_model_name: Final = re.compile(r"[A-Za-z0-9._:/@+-]{1,64}", re.ASCII)


class Models:
    """The models that metrics name: the listed ones, or else the first few that answer.

    All others count as ``other``: a job may name any model, and a label that takes any value
    fills the memory of the metrics server.
    """

    __slots__ = ("_listed", "_named")

    def __init__(self, listed: Iterable[str] = ()) -> None:
        self._named = set(listed)
        self._listed = bool(self._named)

    def label(self, model: str) -> str:
        """Return ``model``, or ``other`` if metrics do not name it."""
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
    contract, or empty if there was none.
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
        self.flush = Histogram(CALL_SECONDS)
        self.journal_full = 0
        self.store_nodes = StoreNodes()

        self.logins = Counts()  # provider, error
        self.token_issued: dict[str, float] = {}
        """When the token in use was given out (Unix seconds), by provider."""
        self.loop_lag = Histogram(CALL_SECONDS)

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

        ``stream_s`` is the time from the first to the last of its ``chunks``. Each gap between two
        of them is counted with the mean of all gaps. ``usage`` is the report of the upstream, by
        OpenAI's names.
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
