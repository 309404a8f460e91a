"""What `berlin top` shows, from what stands in Redis. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pydantic import ValidationError

from berlin_worker.storage.heartbeat import WorkerStatus


@dataclass(frozen=True, slots=True)
class Raw:
    """What was read at ``now_ts`` (the clock of Redis); ``None`` is what nobody could tell."""

    now_ts: float
    announcements: Sequence[str] = ()
    waiting: int | None = None
    parked: int = 0
    dead_letters: int | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """The upstream token in use."""

    issued_ts: float
    age_s: float


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker. Counts are since its start, rates and means of its last seconds."""

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
    tokens: dict[str, Token]

    @classmethod
    def of(cls, said: WorkerStatus, now_ts: float) -> Self:
        """What a worker has said of itself."""
        errors = {
            end.partition(":")[2] or "?": count
            for end, count in said.jobs.items()
            if end.partition(":")[0] == "failed"
        }
        failed_logins = sum(n for name, n in said.logins.items() if ":" in name)
        return cls(
            worker=said.worker,
            host=said.host,
            pid=said.pid,
            version=said.version,
            up_s=_age(said.started_ts, now_ts),
            draining=said.draining,
            in_flight=said.in_flight,
            capacity=said.capacity,
            chunks=said.chunks,
            chunks_per_s=said.recent.chunks_per_s,
            jobs_per_s=said.recent.jobs_per_s,
            first_chunk_s=said.recent.first_chunk_s,
            queue_wait_s=said.recent.queue_wait_s,
            loop_lag_s=said.recent.loop_lag_s,
            completed=said.jobs.get("completed", 0),
            cancelled=said.jobs.get("cancelled", 0),
            failed=sum(errors.values()),
            errors=errors,
            retries=sum(said.retries.values()),
            logins=sum(said.logins.values()) - failed_logins,
            logins_failed=failed_logins,
            tokens={
                provider: Token(issued_ts, _age(issued_ts, now_ts))
                for provider, issued_ts in said.token_issued.items()
            },
        )


@dataclass(frozen=True, slots=True)
class Fleet:
    """All workers that live, and their sums.

    ``unreadable`` counts those that speak a version which this one does not know: they are in no
    sum. Of tokens the newest counts: a worker learns of a new one only when it needs it.
    """

    ts: float
    waiting: int | None
    parked: int
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
    tokens: dict[str, Token]
    unreadable: int
    workers: tuple[WorkerRow, ...] = field(default=())

    @classmethod
    def of(cls, raw: Raw) -> Self:
        """The fleet as it was read."""
        said, unreadable = _readable(raw.announcements)
        rows = sorted(
            (WorkerRow.of(each, raw.now_ts) for each in said),
            key=lambda row: (row.host, row.pid, row.worker),
        )
        errors: Counter[str] = Counter()
        tokens: dict[str, Token] = {}
        for row in rows:
            errors.update(row.errors)
            for provider, token in row.tokens.items():
                if provider not in tokens or token.issued_ts > tokens[provider].issued_ts:
                    tokens[provider] = token
        known = [row.capacity for row in rows if row.capacity is not None]
        recent = [each.recent for each in said]
        return cls(
            ts=raw.now_ts,
            waiting=raw.waiting,
            parked=raw.parked,
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
            unreadable=unreadable,
            workers=tuple(rows),
        )

    def as_json(self) -> dict[str, Any]:
        """For scripts: version 1, fields are only ever added."""
        return {"v": 1, **asdict(self)}


def _readable(announcements: Iterable[str]) -> tuple[list[WorkerStatus], int]:
    said, unreadable = [], 0
    for text in announcements:
        try:
            said.append(WorkerStatus.model_validate_json(text))
        except ValidationError:
            unreadable += 1
    return said, unreadable


def _age(since_ts: float, now_ts: float) -> float:
    # The clocks of a worker and of Redis may differ by a little.
    return round(max(now_ts - since_ts, 0.0), 3)


def _mean(parts: Iterable[tuple[float | None, int]]) -> float | None:
    """The mean of means, each of so many values."""
    known = [(mean, count) for mean, count in parts if mean is not None and count > 0]
    total = sum(count for _, count in known)
    return round(sum(mean * count for mean, count in known) / total, 6) if total else None
