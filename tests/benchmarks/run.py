"""One run: a contender under a load, on an upstream, a Redis and a subscriber of our own."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, Self

import redis

from tests.benchmarks import measure
from tests.benchmarks.fleet import HERE, ROOT, Contender, environ
from tests.benchmarks.processes import Bench, Failed, Output, Subscriber, process
from tests.benchmarks.scenarios import Scenario
from tests.benchmarks.stats import jobs_a_second, percentile
from tests.benchmarks.upstream import prompt

_QUIET_S = 0.3
_PAUSE_S = 0.02
_WINDOW_S = 4.0
_PATIENCE_S = 120.0


class Run:
    """One contender, one scenario, once. A context manager: its processes end with it."""

    def __init__(self, bench: Bench, contender: Contender, scenario: Scenario, log: Path) -> None:
        self._bench = bench
        self._contender = contender
        self._scenario = scenario
        self._log_path = log
        self._environ = environ(
            contender,
            redis_url=bench.server.url,
            berlin_url=bench.berlin_url,
            streams=scenario.streams,
        )
        self._stack = contextlib.ExitStack()
        self._workers: list[subprocess.Popen[str]] = []
        self._orders: list[IO[str]] = []

    def __enter__(self) -> Self:
        with redis.Redis.from_url(self._bench.server.url) as client:
            client.flushall()
        self._log = self._stack.enter_context(self._log_path.open("a"))
        self._subscriber = self._stack.enter_context(
            Subscriber.listening(
                self._bench.server.port, self._scenario.jobs, tell=self._scenario.kind == "idle"
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def figures(self) -> dict[str, Any]:
        """Run the scenario; return what was measured; raises :class:`Failed`."""
        match self._scenario.kind:
            case "backlog":
                return self._backlog()
            case "idle":
                self._ready()
                return self._idle()
            case "memory":
                self._ready()
                return {"sound": True, "idle_memory_bytes": measure.unique_bytes(self._pids())}
            case "reader":
                self._ready()
                return self._read_along()
            case "streams":
                self._ready()
                return self._streams()

    def _ready(self) -> None:
        self._start_workers()
        self._start_producer()
        # One after the other, so that one worker does not take them all at once.
        for number in range(3 * self._scenario.workers):
            self._order([f"warm{number}"], 1, 0)
            self._subscriber.wait_for("warm")
        time.sleep(_QUIET_S)

    def _start_workers(self) -> None:
        self._workers = [
            self._start(self._contender.command(self._scenario.streams, number))
            for number in range(self._scenario.workers)
        ]
        if self._contender.produce() is None:
            self._orders = [worker.stdin for worker in self._workers if worker.stdin]

    def _start_producer(self) -> subprocess.Popen[str] | None:
        command = self._contender.produce()
        if command is None:
            return None
        producer = self._start(command)
        assert producer.stdin is not None
        self._orders = [producer.stdin]
        return producer

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        return self._stack.enter_context(
            process(command, cwd=HERE, env=self._environ, log=self._log)
        )

    def _order(self, job_ids: list[str], chunks: int, every_ms: int) -> None:
        asked = prompt(chunks, every_ms, self._scenario.per_write)
        try:
            for number, job_id in enumerate(job_ids):
                orders = self._orders[number % len(self._orders)]
                orders.write(json.dumps({"job_id": job_id, "prompt": asked}) + "\n")
            for orders in self._orders:
                orders.flush()
        except BrokenPipeError:
            raise Failed(f"the producer ended, see {self._log_path}") from None

    def _order_all(self) -> None:
        scenario = self._scenario
        self._order([f"j{n}" for n in range(scenario.jobs)], scenario.chunks, scenario.every_ms)

    def _streams(self) -> dict[str, Any]:
        scenario = self._scenario
        before, begun = self._used(), time.monotonic()
        self._order_all()
        steady: dict[str, Any] = {}
        paced_s = scenario.chunks * scenario.every_ms / 1000
        if scenario.every_ms:
            self._subscriber.wait_for("started", _PATIENCE_S + paced_s)
            # Half of what is left until the first stream ends.
            window_s = min((paced_s - (time.monotonic() - begun)) / 2, _WINDOW_S)
            if window_s > 0:
                steady = self._window(window_s)
        result = self._subscriber.give_up(_PATIENCE_S + 4 * paced_s)
        wall_s, after = time.monotonic() - begun, self._used()
        busy = {name: round((after[name] - before[name]) / wall_s, 3) for name in before}
        time.sleep(_QUIET_S)  # acknowledging the last jobs is a cost of them, too
        worker_s = self._used()["worker"] - before["worker"]
        return {
            **self._judged(result),
            **steady,
            "cpu_us_a_chunk": worker_s / max(result["chunks"], 1) * 1e6,
            "chunks_a_second": result["chunks"] / max(result["heard_s"], 1e-9),
            "busy": busy,
        }

    def _window(self, window_s: float) -> dict[str, Any]:
        """Return the cost of the streams in flight, without their beginnings and ends."""
        chunks, cpu = self._subscriber.chunks_so_far(), measure.cpu_s(self._pids())
        time.sleep(window_s)
        more_chunks, more_cpu = self._subscriber.chunks_so_far(), measure.cpu_s(self._pids())
        figures: dict[str, Any] = {"memory_bytes": measure.unique_bytes(self._pids())}
        if more_chunks > chunks:
            figures["steady_cpu_us_a_chunk"] = (more_cpu - cpu) / (more_chunks - chunks) * 1e6
        return figures

    def _backlog(self) -> dict[str, Any]:
        producer = self._start_producer()
        self._order_all()
        if producer is not None:
            # The producer ends with its orders: the whole backlog is queued before a worker starts.
            self._orders[0].close()
            producer.wait(_PATIENCE_S)
        self._start_workers()
        result = self._subscriber.give_up(_PATIENCE_S)
        rate = jobs_a_second(list(result["firsts_ns"].values()))
        return {**self._judged(result), "jobs_a_second": rate}

    def _idle(self) -> dict[str, Any]:
        ordered_ns: dict[str, int] = {}
        for job_id in (f"j{n}" for n in range(self._scenario.jobs)):
            ordered_ns[job_id] = time.monotonic_ns()
            self._order([job_id], self._scenario.chunks, self._scenario.every_ms)
            self._subscriber.wait_for("ended")
            time.sleep(_PAUSE_S)
        result = self._subscriber.give_up(_PATIENCE_S)
        firsts: dict[str, int] = result["firsts_ns"]
        waits = sorted((at - ordered_ns[job_id]) / 1e6 for job_id, at in firsts.items())
        first_chunk_ms = {"p50": percentile(waits, 50), "p99": percentile(waits, 99)}
        return {**self._judged(result), "first_chunk_ms": first_chunk_ms}

    def _read_along(self) -> dict[str, Any]:
        scenario = self._scenario
        reader = self._stack.enter_context(
            process(
                [sys.executable, "-m", "tests.benchmarks.reader", str(scenario.jobs)],
                cwd=ROOT,
                env=self._environ,
            )
        )
        assert reader.stdout is not None
        output = Output(reader.stdout)
        output.wait_for("ready")
        self._order_all()
        paced_s = scenario.chunks * scenario.every_ms / 1000
        self._subscriber.wait_for("started", _PATIENCE_S + paced_s)
        # By now the reader has replayed the logs, and all its streams are live.
        time.sleep(paced_s / 4)
        connections = measure.tcp_connections(reader.pid)
        read: dict[str, Any] = output.wait_for("reader", _PATIENCE_S + 4 * paced_s)
        judged = self._judged(self._subscriber.give_up(_PATIENCE_S))
        read["connections"] = connections
        read["lost"] = scenario.jobs * scenario.chunks - read["chunks"]
        sound = judged["sound"] and not (read["lost"] or read["unsound"])
        return {**judged, "reader": read, "sound": sound}

    def _judged(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return the figures of what has arrived, and whether all of it has."""
        expected = self._scenario.jobs * self._scenario.chunks
        whole = result["chunks"] == expected and result["ended"] == self._scenario.jobs
        return {
            "jobs": self._scenario.jobs,
            "chunks": result["chunks"],
            "lost": expected - result["chunks"],
            "sound": whole and not (result["disorder"] or result["failed"]),
            "lag_ms": result["lag_ms"],
            "steady_lag_ms": result["steady_lag_ms"],
        }

    def _pids(self) -> list[int]:
        return [pid for worker in self._workers for pid in measure.tree(worker.pid)]

    def _used(self) -> dict[str, float]:
        assert self._bench.server.pid is not None
        return {
            "worker": measure.cpu_s(self._pids()),
            "upstream": measure.cpu_s([self._bench.upstream_pid]),
            "redis": measure.cpu_s([self._bench.server.pid]),
            "subscriber": measure.cpu_s([self._subscriber.pid]),
            "machine": measure.machine_busy_s(),
        }
