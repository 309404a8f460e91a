"""The figures of the fleet, as `berlin top` and the gateway show them (pure)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from pydantic import ValidationError

from berlin_worker.config.redis_url import Topology
from berlin_worker.storage.heartbeat import WorkerStatus
from berlin_worker.storage.survey import Survey


@dataclass(frozen=True, slots=True)
class FleetReading:
    """Values read at ``now_ts`` (the clock of Redis). ``None`` is unknown."""

    now_ts: float
    statuses: Sequence[str] = ()
    waiting: int | None = None
    dead_letters: int | None = None
    topology: Survey | None = None
    unread: tuple[str, ...] = ()
    """``workers``, ``dead_letters``, if the node of a cluster that has them did not answer."""


_UNREAD: Final = {"workers": "the workers", "dead_letters": "the number of dead letters"}


@dataclass(frozen=True, slots=True)
class TokenAge:
    """The upstream token in use."""

    issued_ts: float
    age_s: float


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker: counts since its start, rates and means of its last seconds."""

    worker: str
    host: str
    pid: int
    version: str
    up_s: float
    draining: bool
    in_flight: int
    capacity: int | None
    chunks: int
    chunks_per_s: float
    jobs_per_s: float
    first_chunk_s: float | None
    queue_wait_s: float | None
    loop_lag_s: float | None
    completed: int
    cancelled: int
    failed: int
    errors: dict[str, int]
    retries: int
    logins: int
    logins_failed: int
    tokens: dict[str, TokenAge]
    tokens_per_min: dict[str, dict[str, float]]
    models: dict[str, list[str]]

    @classmethod
    def of(cls, status: WorkerStatus, now_ts: float) -> Self:
        """Return the row of a worker from its own status."""
        errors = {
            end.partition(":")[2] or "?": count
            for end, count in status.jobs.items()
            if end.partition(":")[0] == "failed"
        }
        failed_logins = sum(n for name, n in status.logins.items() if ":" in name)
        return cls(
            worker=status.worker,
            host=status.host,
            pid=status.pid,
            version=status.version,
            up_s=_age(status.started_ts, now_ts),
            draining=status.draining,
            in_flight=status.in_flight,
            capacity=status.capacity,
            chunks=status.chunks,
            chunks_per_s=status.recent.chunks_per_s,
            jobs_per_s=status.recent.jobs_per_s,
            first_chunk_s=status.recent.first_chunk_s,
            queue_wait_s=status.recent.queue_wait_s,
            loop_lag_s=status.recent.loop_lag_s,
            completed=status.jobs.get("completed", 0),
            cancelled=status.jobs.get("cancelled", 0),
            failed=sum(errors.values()),
            errors=errors,
            retries=sum(status.retries.values()),
            logins=sum(status.logins.values()) - failed_logins,
            logins_failed=failed_logins,
            tokens={
                provider: TokenAge(issued_ts, _age(issued_ts, now_ts))
                for provider, issued_ts in status.token_issued.items()
            },
            tokens_per_min={
                model: rate.model_dump() for model, rate in status.recent.tokens_per_min.items()
            },
            models=status.models,
        )


@dataclass(frozen=True, slots=True)
class TopologyRow:
    """The servers of events and records: ``away`` names those that the others cannot reach."""

    kind: Topology
    primaries: int = 0
    replicas: int = 0
    sentinels: int = 0
    away: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Survey) -> Self:
        """Return the row of a survey."""
        primaries = sum(each.primary for each in found.servers)
        return cls(
            kind=found.kind,
            primaries=primaries,
            replicas=len(found.servers) - primaries,
            sentinels=len(found.sentinels),
            away=(
                *(each.place for each in found.servers if each.away),
                *(at for at, answers in found.sentinels if not answers),
            ),
        )


@dataclass(frozen=True, slots=True)
class Fleet:
    """All running workers, and their sums.

    ``unreadable`` counts workers whose status has an unknown version: no sum includes them. For
    each provider ``tokens`` has the newest token of all workers, and ``models`` the names of the
    models that any worker serves. ``unread`` names what could not be read, since a node of a
    cluster did not answer: ``workers`` (then all sums are 0) or ``dead_letters``.
    """

    ts: float
    waiting: int | None
    dead_letters: int | None
    queue_wait_s: float | None
    in_flight: int
    capacity: int | None
    draining: int
    chunks: int
    chunks_per_s: float
    jobs_per_s: float
    first_chunk_s: float | None
    completed: int
    cancelled: int
    failed: int
    errors: dict[str, int]
    retries: int
    logins: int
    logins_failed: int
    tokens: dict[str, TokenAge]
    tokens_per_min: dict[str, dict[str, float]]
    models: dict[str, list[str]]
    unreadable: int
    topology: TopologyRow | None = None
    unread: tuple[str, ...] = ()
    workers: tuple[WorkerRow, ...] = field(default=())

    @classmethod
    def of(cls, raw: FleetReading) -> Self:
        """Return the fleet as it was read."""
        readable, unreadable = _readable(raw.statuses)
        rows = sorted(
            (WorkerRow.of(each, raw.now_ts) for each in readable),
            key=lambda row: (row.host, row.pid, row.worker),
        )
        errors: Counter[str] = Counter()
        tokens: dict[str, TokenAge] = {}
        for row in rows:
            errors.update(row.errors)
            for provider, token in row.tokens.items():
                if provider not in tokens or token.issued_ts > tokens[provider].issued_ts:
                    tokens[provider] = token
        known = [row.capacity for row in rows if row.capacity is not None]
        recent = [each.recent for each in readable]
        return cls(
            ts=raw.now_ts,
            waiting=raw.waiting,
            dead_letters=raw.dead_letters,
            queue_wait_s=_mean((each.queue_wait_s, each.waits) for each in recent),
            in_flight=sum(row.in_flight for row in rows),
            capacity=sum(known) if known else None,
            draining=sum(row.draining for row in rows),
            chunks=sum(row.chunks for row in rows),
            chunks_per_s=round(sum(row.chunks_per_s for row in rows), 3),
            jobs_per_s=round(sum(row.jobs_per_s for row in rows), 3),
            first_chunk_s=_mean((each.first_chunk_s, each.first_chunks) for each in recent),
            completed=sum(row.completed for row in rows),
            cancelled=sum(row.cancelled for row in rows),
            failed=sum(row.failed for row in rows),
            errors=dict(errors.most_common()),
            retries=sum(row.retries for row in rows),
            logins=sum(row.logins for row in rows),
            logins_failed=sum(row.logins_failed for row in rows),
            tokens=tokens,
            tokens_per_min=_token_rates(rows),
            models=_models(rows),
            unreadable=unreadable,
            topology=TopologyRow.of(raw.topology) if raw.topology else None,
            unread=raw.unread,
            workers=tuple(rows),
        )

    @property
    def unread_text(self) -> str:
        """What is missing, and which servers do not answer; empty if all was read."""
        if not self.unread:
            return ""
        what = " and ".join(_UNREAD.get(each, each) for each in self.unread)
        away = ", ".join(self.topology.away) if self.topology else ""
        return f"{what} cannot be read: {away or 'a node of the cluster'} does not answer"

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of version 1. Later releases only add fields."""
        found = asdict(self)
        if self.topology is None:  # not asked, or no answer
            del found["topology"]
        if not self.unread:
            del found["unread"]
        return {"v": 1, **found}


def _readable(statuses: Iterable[str]) -> tuple[list[WorkerStatus], int]:
    readable, unreadable = [], 0
    for text in statuses:
        try:
            readable.append(WorkerStatus.model_validate_json(text))
        except ValidationError:
            unreadable += 1
    return readable, unreadable


def _token_rates(rows: Iterable[WorkerRow]) -> dict[str, dict[str, float]]:
    """Return the sums by model, the largest first."""
    rates: dict[str, Counter[str]] = {}
    for row in rows:
        for model, rate in row.tokens_per_min.items():
            rates.setdefault(model, Counter()).update(rate)
    largest = sorted(rates.items(), key=lambda each: -each[1].total())
    return {model: {kind: round(n, 1) for kind, n in rate.items()} for model, rate in largest}


def _models(rows: Iterable[WorkerRow]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        for provider, models in row.models.items():
            found.setdefault(provider, set()).update(models)
    return {provider: sorted(models) for provider, models in sorted(found.items())}


def _age(since_ts: float, now_ts: float) -> float:
    # The clocks of a worker and of Redis may differ slightly.
    return round(max(now_ts - since_ts, 0.0), 3)


def _mean(parts: Iterable[tuple[float | None, int]]) -> float | None:
    """Return the mean of pairs of a mean and its number of values."""
    known = [(mean, count) for mean, count in parts if mean is not None and count > 0]
    total = sum(count for _, count in known)
    return round(sum(mean * count for mean, count in known) / total, 6) if total else None
