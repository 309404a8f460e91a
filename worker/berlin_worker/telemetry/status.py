"""Gather what the probes and the metrics of one process need."""

import asyncio
import platform
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Self

from redis.exceptions import ClusterDownError, ResponseError

from berlin_schemas import names
from berlin_worker.telemetry import readiness
from berlin_worker.telemetry.cached_probe import NoAnswer, Probe, ask_all
from berlin_worker.telemetry.gauges import Gauges
from berlin_worker.telemetry.liveness import Liveness

if TYPE_CHECKING:
    import redis

_PATIENCE_S: Final = 0.8
"""Seconds that an answer waits for the servers behind it: probes give up after one second."""
_STORE_SILENT_S: Final = 4.0
"""A worker whose store is silent for longer takes no jobs (``berlin_worker.broker.visibility``)."""


@dataclass(frozen=True, slots=True)
class ProcessGauges:
    """Values of this process, read by other threads at a scrape; ``no_token`` runs in the loop."""

    jobs_in_flight: Callable[[], int]
    jobs_quarantined: Callable[[], int]
    journal_buffer_bytes: Callable[[], int]
    journal_limit_bytes: int
    store_silent_s: Callable[[], float]
    no_token: Callable[[], Coroutine[Any, Any, str | None]]


class StatusReporter:
    """Answers from any thread. ``queue`` counts the messages at the broker, and blocks;
    ``open_redis`` opens a client, and may block too.

    Use it as a context manager: it holds threads and a connection.
    """

    def __init__(
        self,
        liveness: Liveness,
        inside: ProcessGauges,
        *,
        loop: asyncio.AbstractEventLoop,
        queue: Callable[[], Mapping[str, int]],
        open_redis: "Callable[[], redis.Redis]",
        broker_url: str,
        lease_s: float,
    ) -> None:
        self._liveness = liveness
        self._inside = inside
        self._loop = loop
        self._lease_s = lease_s
        scheme = broker_url.partition(":")[0]
        self._system = "rabbitmq" if scheme.startswith(("amqp", "pyamqp")) else "redis"
        self._build = (version("berlin-worker"), platform.python_version(), _name_of(loop))
        self._open_redis = open_redis
        self._redis: redis.Redis | None = None
        self._broker_probe = Probe("broker", queue)
        self._redis_probe = Probe("redis", self._dead_letters)
        self._token_probe = Probe("token", self._no_token)

    def live(self) -> tuple[int, Mapping[str, Any]]:
        """Answer ``/livez``, without asking any server."""
        return readiness.report(self._alive())

    def ready(self) -> tuple[int, Mapping[str, Any]]:
        """Answer ``/readyz``."""
        return readiness.report(self._look()[0])

    def read(self) -> Gauges:
        """Return the gauges of the metrics, read now."""
        looked, queue, dead_letters = self._look()
        inside, liveness = self._inside, self._liveness
        return Gauges(
            messaging_system=self._system,
            jobs_in_flight=inside.jobs_in_flight(),
            job_slots=liveness.slots,
            jobs_quarantined=inside.jobs_quarantined(),
            queue=queue,
            dead_letters=dead_letters,
            journal_buffer_bytes=inside.journal_buffer_bytes(),
            journal_limit_bytes=inside.journal_limit_bytes,
            loop_age_s=liveness.loop.age_s,
            consumer_age_s=liveness.consumer.age_s,
            checks={name: check.ok for name, check in looked.items()},
            draining=liveness.draining,
            build=self._build,
        )

    def _alive(self) -> readiness.Checks:
        liveness = self._liveness
        return readiness.live(
            loop_age_s=liveness.loop.age_s,
            consumer_age_s=liveness.consumer.age_s,
            draining=liveness.draining,
            lease_s=self._lease_s,
        )

    def _look(self) -> tuple[readiness.Checks, Mapping[str, int], int | None]:
        ask_all((self._broker_probe, self._redis_probe, self._token_probe))
        give_up = time.monotonic() + _PATIENCE_S
        queue: Mapping[str, int] = {}
        dead_letters, broker, store, token = None, None, None, None
        try:
            queue = self._broker_probe.answer(give_up)
        except NoAnswer as error:
            broker = str(error)
        try:
            dead_letters = self._redis_probe.answer(give_up)
        except NoAnswer as error:
            store = str(error)
        try:
            token = self._token_probe.answer(give_up)
        except NoAnswer as error:
            token = str(error)
        silent_s = self._inside.store_silent_s()
        if store is None and silent_s > _STORE_SILENT_S:
            store = f"the event store has not answered for {silent_s:.1f} s"
        outside = readiness.Dependencies(broker, store, token)
        draining = self._liveness.draining
        return readiness.ready(self._alive(), outside, draining=draining), queue, dead_letters

    def _dead_letters(self) -> int | None:
        if self._redis is None:
            self._redis = self._open_redis()
        try:
            counted: Any = self._redis.xlen(names.DEAD_LETTERS)
        except ClusterDownError:
            raise
        except ResponseError:  # an ACL that forbids the command
            return None
        return int(counted)

    def _no_token(self) -> str | None:
        asked = asyncio.run_coroutine_threadsafe(self._inside.no_token(), self._loop)
        try:
            return asked.result(_PATIENCE_S)
        finally:
            asked.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for probe in (self._broker_probe, self._redis_probe, self._token_probe):
            probe.close()
        if self._redis is not None:
            self._redis.close()


def _name_of(loop: asyncio.AbstractEventLoop) -> str:
    return type(loop).__module__.partition(".")[0]
