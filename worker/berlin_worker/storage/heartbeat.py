"""A worker tells the fleet that it lives, and how it does, every few seconds.

What it says stands in Redis under a TTL, so a worker that hangs or dies disappears by itself;
one that ends in good order takes it back. Read by `berlin top`, or by anybody else: version 1,
fields are only ever added.
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
"""Rates and means are of so many seconds."""
_WITHDRAW_S: Final = 2.0

Snapshot = Mapping[str, Any]
"""What :meth:`berlin_worker.telemetry.stats.Stats.snapshot` returns."""


_MOST: Final = 1e15
Measured = Annotated[float, Field(ge=-_MOST, le=_MOST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=int(_MOST))]
"""Anybody may write an announcement: with these bounds all sums are finite, and are JSON."""


class Recent(BaseModel):
    """The last ``window_s`` seconds: rates, and means; ``None`` where there was nothing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    window_s: Measured = 0.0
    chunks_per_s: Measured = 0.0
    jobs_per_s: Measured = 0.0
    first_chunks: Count = 0
    first_chunk_s: Measured | None = None
    waits: Count = 0
    queue_wait_s: Measured | None = None
    loop_lag_s: Measured | None = None


class WorkerStatus(BaseModel):
    """What a worker says of itself. Counts are since its start, times Unix time.

    ``jobs`` by their end (``completed``, ``cancelled``, ``failed:<code>``), ``retries`` by the
    code of the attempt that failed, ``logins`` by provider (``<provider>:<code>`` those that
    failed), ``token_issued`` by provider.
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
    recent: Recent = Recent()


@dataclass(frozen=True, slots=True)
class Identity:
    """Which process it is."""

    worker: str
    host: str
    pid: int
    version: str
    started_ts: float


def this_process() -> Identity:
    """The identity of the running process, under a new name."""
    host = socket.gethostname()
    told = version("berlin-worker")
    return Identity(secrets.token_hex(6), host, os.getpid(), told, round(time.time(), 3))


@dataclass(frozen=True, slots=True)
class Load:
    """How busy it is now; ``capacity`` is how many jobs it runs at most, where that is known."""

    in_flight: int
    capacity: int | None
    draining: bool


class Window:
    """The snapshots of the last seconds, and what has happened between the first and the last."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, Snapshot]] = deque()

    def add(self, at_s: float, snapshot: Snapshot) -> Recent:
        """Take the next one; ``at_s`` is a monotonic time."""
        self._seen.append((at_s, snapshot))
        # One from before the window stays, so that all of the window is covered.
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
            chunks_per_s=round((snapshot["chunks"] - first["chunks"]) / span_s, 3),
            jobs_per_s=round(jobs / span_s, 3),
            first_chunks=first_chunks,
            first_chunk_s=first_chunk_s,
            waits=waits,
            queue_wait_s=queue_wait_s,
            loop_lag_s=_mean(first, snapshot, "loop_lag_s")[1],
        )


def announcement(
    identity: Identity, load: Load, snapshot: Snapshot, recent: Recent
) -> WorkerStatus:
    """What the process says of itself now."""
    return WorkerStatus(
        **dataclasses.asdict(identity),
        **dataclasses.asdict(load),
        recent=recent,
        **{name: snapshot[name] for name in _COUNTED},
    )


_COUNTED: Final = ("chunks", "jobs", "retries", "logins", "token_issued")


class WorkerHeartbeat:
    """The announcements of one process."""

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
        """Say it every ``interval_s`` until cancelled; while Redis is away nobody hears."""
        while True:
            try:
                await self.announce()
            except (RedisError, OSError) as error:
                logger.debug("this worker cannot be announced: %s", error)
            await asyncio.sleep(self._interval_s)

    async def announce(self) -> None:
        """Say it now. Raises redis-py's errors."""
        snapshot = self._snapshot()
        recent = self._window.add(time.monotonic(), snapshot)
        said = announcement(self._identity, self._load(), snapshot, recent)
        args: list[str | int] = [self._identity.worker, said.model_dump_json(), self._ttl_ms]
        # EVAL, not EVALSHA: a server that was restarted needs no second round trip.
        reply: Any = self._redis.eval(self._script, len(self._keys), *self._keys, *args)
        await reply

    async def withdraw(self) -> None:
        """Take it back; where Redis does not answer it expires by itself."""
        with contextlib.suppress(TimeoutError, RedisError, OSError):
            async with asyncio.timeout(_WITHDRAW_S), self._redis.pipeline() as pipeline:
                pipeline.delete(self._keys[0])
                pipeline.zrem(names.FLEET, self._identity.worker)
                await pipeline.execute()


def _mean(first: Snapshot, last: Snapshot, name: str) -> tuple[int, float | None]:
    count = last[name]["count"] - first[name]["count"]
    if count <= 0:
        return 0, None
    return count, round((last[name]["sum"] - first[name]["sum"]) / count, 6)
