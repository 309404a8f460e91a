"""The heartbeat of a worker: its status, written to Redis every few seconds.

The status has a TTL, so a worker that hangs or dies disappears by itself; a worker that stops
in order deletes it. `berlin top` reads it, and any other program may: version 1, to which later
versions only add fields.
"""

import asyncio
import contextlib
import dataclasses
import logging
import math
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.storage.scripts import source

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

WINDOW_S: Final = 10.0
"""Rates and means cover this many seconds."""
_DEREGISTER_S: Final = 2.0

Snapshot = Mapping[str, Any]
"""The snapshot that :meth:`berlin_worker.telemetry.stats.Stats.snapshot` returns."""


_MOST: Final = 1e15
Measured = Annotated[float, Field(ge=-_MOST, le=_MOST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=int(_MOST))]
"""Any client may write a status: with these bounds all sums are finite, and valid JSON."""


class TokenRate(BaseModel):
    """Tokens a minute, as upstreams have reported them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input: Measured = 0.0
    output: Measured = 0.0


class Recent(BaseModel):
    """Rates and means of the last ``window_s`` seconds; a mean of nothing is ``None``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    window_s: Measured = 0.0
    chunks_per_s: Measured = 0.0
    jobs_per_s: Measured = 0.0
    first_chunks: Count = 0
    first_chunk_s: Measured | None = None
    waits: Count = 0
    queue_wait_s: Measured | None = None
    loop_lag_s: Measured | None = None
    tokens_per_min: dict[str, TokenRate] = {}
    """By model; only models with tokens in the window."""


class WorkerStatus(BaseModel):
    """The status of one worker. Counts begin at its start; times are Unix time, s.

    - ``jobs``: by their end (``completed``, ``cancelled``, ``failed:<code>``);
    - ``retries``: by the error code of the failed attempt;
    - ``logins``: by provider (``<provider>:<code>`` for failed ones);
    - ``token_issued``: time of the last login, by provider;
    - ``models``: by provider, its default model and those that have answered, as far as metrics
      name them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = 1
    worker: str
    host: str
    pid: Count
    version: str
    started_ts: Measured
    draining: bool = False
    in_flight: Count = 0
    capacity: Count | None = None
    chunks: Count = 0
    jobs: dict[str, Count] = {}
    retries: dict[str, Count] = {}
    logins: dict[str, Count] = {}
    token_issued: dict[str, Measured] = {}
    models: dict[str, list[str]] = {}
    recent: Recent = Recent()


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifies one worker process."""

    worker: str
    host: str
    pid: int
    version: str
    started_ts: float


def this_process() -> Identity:
    """Return the identity of this process, with a new worker name."""
    host = socket.gethostname()
    release = version("berlin-worker")
    return Identity(secrets.token_hex(6), host, os.getpid(), release, round(time.time(), 3))


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a worker; ``capacity`` is the number of its slots, or ``None`` if unknown."""

    in_flight: int
    capacity: int | None
    draining: bool


class Window:
    """The snapshots of the last ``window_s`` seconds."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, Snapshot]] = deque()

    def add(self, at_s: float, snapshot: Snapshot) -> Recent:
        """Add a snapshot, taken at the monotonic time ``at_s``; return the rates of the window."""
        self._seen.append((at_s, snapshot))
        # One snapshot from before the window stays, so that the window is covered in full.
        while len(self._seen) > 1 and self._seen[1][0] <= at_s - self._window_s:
            self._seen.popleft()
        since_s, first = self._seen[0]
        span_s = at_s - since_s
        if span_s <= 0:
            return Recent()
        first_chunks, first_chunk_s = _mean(first, snapshot, "first_chunk_s")
        waits, queue_wait_s = _mean(first, snapshot, "queue_wait_s")
        jobs = sum(snapshot["jobs"].values()) - sum(first["jobs"].values())
        return Recent(
            window_s=round(span_s, 3),
            chunks_per_s=_rate(snapshot["chunks"] - first["chunks"], span_s, 3),
            jobs_per_s=_rate(jobs, span_s, 3),
            first_chunks=first_chunks,
            first_chunk_s=first_chunk_s,
            waits=waits,
            queue_wait_s=queue_wait_s,
            loop_lag_s=_mean(first, snapshot, "loop_lag_s")[1],
            tokens_per_min=_token_rates(first, snapshot, span_s),
        )


def worker_status(
    identity: Identity, load: Load, snapshot: Snapshot, recent: Recent
) -> WorkerStatus:
    """Return the status of the process as of now."""
    return WorkerStatus(
        **dataclasses.asdict(identity),
        **dataclasses.asdict(load),
        recent=recent,
        **{name: snapshot[name] for name in _COUNTED},
    )


_COUNTED: Final = ("chunks", "jobs", "retries", "logins", "token_issued", "models")


class WorkerHeartbeat:
    """Writes the status of one process to Redis."""

    def __init__(
        self,
        redis: "Redis",
        identity: Identity,
        *,
        snapshot: Callable[[], Snapshot],
        load: Callable[[], Load],
        interval_s: float,
        ttl_s: float,
    ) -> None:
        self._redis = redis
        self._identity = identity
        self._keys = [names.alive_key(identity.worker), names.FLEET]
        self._snapshot = snapshot
        self._load = load
        self._interval_s = interval_s
        self._ttl_ms = math.ceil(ttl_s * 1000)
        self._window = Window()
        self._script = source("heartbeat")

    async def beat_forever(self) -> None:
        """Write the status every ``interval_s`` until cancelled; a failed write is only logged.

        So is a status that JSON or its model cannot hold, such as a host name that is no UTF-8.
        """
        while True:
            try:
                await self.heartbeat()
            except (RedisError, OSError) as error:
                logger.debug("the heartbeat failed: %s", error)
            except (ValueError, ArithmeticError):
                logger.exception("the status of this worker cannot be written")
            await asyncio.sleep(self._interval_s)

    async def heartbeat(self) -> None:
        """Write the status now; raises redis-py's errors."""
        snapshot = self._snapshot()
        recent = self._window.add(time.monotonic(), snapshot)
        status = worker_status(self._identity, self._load(), snapshot, recent)
        args: list[str | int] = [self._identity.worker, status.model_dump_json(), self._ttl_ms]
        # EVAL, not EVALSHA: a restarted server needs no second round trip.
        reply: Any = self._redis.eval(self._script, len(self._keys), *self._keys, *args)
        await reply

    async def deregister(self) -> None:
        """Delete the status; if Redis does not answer, it expires by itself."""
        with contextlib.suppress(TimeoutError, RedisError, OSError):
            async with asyncio.timeout(_DEREGISTER_S), self._redis.pipeline() as pipeline:
                pipeline.delete(self._keys[0])
                pipeline.zrem(names.FLEET, self._identity.worker)
                await pipeline.execute()


def _token_rates(first: Snapshot, last: Snapshot, span_s: float) -> dict[str, TokenRate]:
    rates: dict[str, dict[str, float]] = {}
    for kind, by_model in last["token_usage"].items():
        for model, tokens in by_model.items():
            new = tokens - first["token_usage"][kind].get(model, 0.0)
            if new > 0:
                rates.setdefault(model, {})[kind] = _rate(60 * new, span_s, 1)
    return {model: TokenRate(**rate) for model, rate in rates.items()}


def _rate(amount: float, span_s: float, digits: int) -> float:
    """Return a rate within the bounds of ``Measured``: upstreams report any number of tokens."""
    return round(min(amount / span_s, _MOST), digits)


def _mean(first: Snapshot, last: Snapshot, name: str) -> tuple[int, float | None]:
    count = last[name]["count"] - first[name]["count"]
    if count <= 0:
        return 0, None
    return count, round((last[name]["sum"] - first[name]["sum"]) / count, 6)
