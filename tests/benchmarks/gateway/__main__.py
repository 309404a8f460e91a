"""``python -m tests.benchmarks.gateway``: what the HTTP gateway costs, and what it adds.

Beside it, in turns: a bare handler (:mod:`tests.benchmarks.gateway.bare`), and readers without
HTTP. Counts CPU, so a busy machine matters little; lags need a quiet one.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from berlin_worker.embedded.redis_server import RedisProcess, find_server
from tests.benchmarks import measure
from tests.benchmarks.fleet import ROOT
from tests.benchmarks.gateway import first_byte
from tests.benchmarks.processes import Output, process

OUT: Final = ROOT / ".bench"
_SETTLE_S: Final = 1.0
_SLACK_S: Final = 120.0
_SIZES: Final = {
    "tiny": (20, 10, 50, 5),
    "quick": (300, 50, 1000, 50),
    "full": (1000, 200, 5000, 200),
}
"""Streams, chunks of each, streams that are only open, requests for the first byte."""
_SERVERS: Final = ("gateway", "bare")
_PACE_MS: Final = 100


@contextlib.contextmanager
def _python(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", f"tests.benchmarks.gateway.{module}", *arguments]
    with process(command, cwd=ROOT) as started:
        yield started


def _writer(*arguments: int) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return _python("writer", *map(str, arguments))


@contextlib.contextmanager
def serving(name: str, url: str) -> Iterator[tuple[int, int]]:
    """Run a server of events; yields its process ID and port."""
    if name == "bare":
        with _python("bare", url) as server:
            assert server.stdout is not None
            yield server.pid, int(server.stdout.readline())
        return
    with first_byte.gateway(url, OUT / "gateway.log") as (pid, port):
        yield pid, port


def streams(server: RedisProcess, name: str, jobs: int, chunks: int) -> dict[str, Any]:
    """Let readers follow ``jobs`` jobs by way of ``name``; return cost and lags."""
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(_writer(server.port, jobs, chunks, _PACE_MS))
        assert writer.stdin is not None
        assert writer.stdout is not None
        Output(writer.stdout).wait_for("ready")
        options, port, pid = ["--direct"], server.port, 0
        if name != "direct":
            pid, port = stack.enter_context(serving(name, server.url))
            options = []
        readers = stack.enter_context(_python("readers", str(port), str(jobs), *options))
        assert readers.stdout is not None
        output = Output(readers.stdout)
        output.wait_for("open")
        time.sleep(_SETTLE_S)
        pid = pid or readers.pid
        used, memory = measure.cpu_s([pid]), measure.unique_bytes([pid])
        writer.stdin.write("go\n")
        writer.stdin.flush()
        read: dict[str, Any] = output.wait_for("read", chunks * _PACE_MS / 1000 + _SLACK_S)
        read["cpu_us_a_chunk"] = round(
            (measure.cpu_s([pid]) - used) / max(read["chunks"], 1) * 1e6, 1
        )
        read["memory_bytes"] = memory
        read["sound"] = read["chunks"] == jobs * chunks and not read["disorder"]
        return read


def open_streams(server: RedisProcess, count: int) -> dict[str, Any]:
    """Return the memory of the gateway for each stream that is open and waits."""
    with (
        _writer(server.port, count, 0, 1) as writer,
        serving("gateway", server.url) as (pid, port),
    ):
        assert writer.stdout is not None
        Output(writer.stdout).wait_for("ready")
        bytes_each = 0.0
        before = 0
        for jobs in (min(count, 10), count):  # the first few load what all need
            with _python("readers", str(port), str(jobs)) as readers:
                assert readers.stdout is not None
                Output(readers.stdout).wait_for("open")
                time.sleep(_SETTLE_S)
                bytes_each = (measure.unique_bytes([pid]) - before) / jobs
                before = measure.unique_bytes([pid]) if jobs != count else before
        return {"streams": count, "bytes_a_stream": round(bytes_each)}


def main() -> int:
    """Measure, and print one JSON object a line; 1 if an event was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gateway", description=__doc__)
    parser.add_argument("--size", choices=_SIZES, default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="streams,open,first")
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    measure.raise_open_files()
    binary = find_server()
    if binary is None:
        print("no redis-server and no valkey-server found", file=sys.stderr)
        return 1
    jobs, chunks, opened, requests = _SIZES[options.size]
    parts: list[str] = options.parts.split(",")
    runs: list[dict[str, Any]] = []

    def note(part: str, figures: dict[str, Any]) -> None:
        runs.append({"part": part} | figures)
        print(json.dumps(runs[-1]), flush=True)

    for _ in range(options.rounds if "streams" in parts else 0):
        for name in (*_SERVERS, "direct"):
            with _server(binary) as server:
                note("streams", {"by": name} | streams(server, name, jobs, chunks))
    if "open" in parts:
        with _server(binary) as server:
            note("open", open_streams(server, opened))
    if "first" in parts:
        with _server(binary) as server:
            note("first", first_byte.measured(server.url, requests, OUT))
    for result in results(runs):
        print(json.dumps(result))
    return 0 if all(run.get("sound", True) for run in runs) else 1


def results(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was found beside its target, for each target that the runs have figures of."""
    found = {}

    def median(part: str, by: str | None, read: Callable[[dict[str, Any]], float]) -> float | None:
        values = [read(run) for run in runs if run["part"] == part and run.get("by") == by]
        return statistics.median(values) if values else None

    def cpu(run: dict[str, Any]) -> float:
        return float(run["cpu_us_a_chunk"])

    def lag(run: dict[str, Any]) -> float:
        return float(run["lag_ms"]["p99"])

    ours, bare = median("streams", "gateway", cpu), median("streams", "bare", cpu)
    if ours is not None and bare:
        found["CPU a chunk, of the bare handler's"] = ours / bare, 1.5
    ours, direct = median("streams", "gateway", lag), median("streams", "direct", lag)
    if ours is not None and direct is not None:
        found["p99 of the lag, above that of a direct reader (ms)"] = ours - direct, 10
    if (each := median("open", None, lambda run: float(run["bytes_a_stream"]))) is not None:
        found["memory of an open stream (KB)"] = each / 1000, 30
    later = median("first", None, lambda run: float(run["gateway_ms"] - run["direct_ms"]))
    if later is not None:
        found["first text, later than by the client (ms)"] = later, 5
    return [
        {"what": what, "found": round(value, 2), "target": target, "met": value <= target}
        for what, (value, target) in found.items()
    ]


@contextlib.contextmanager
def _server(binary: Path) -> Iterator[RedisProcess]:
    with RedisProcess(binary, {"maxclients": "15000"}) as server:
        yield server


if __name__ == "__main__":
    sys.exit(main())
