"""``python -m tests.benchmarks.gateway``: what the HTTP gateway costs, and what it adds.

Beside it, in turns: a bare handler (:mod:`tests.benchmarks.gateway.bare`), and readers without
HTTP. Counts CPU, so a busy machine matters little; lags need a quiet one.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
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
    parts, sound = options.parts.split(","), True
    for _ in range(options.rounds):
        for name in (*_SERVERS, "direct") if "streams" in parts else ():
            with _server(binary) as server:
                figures = streams(server, name, jobs, chunks)
            sound = sound and figures["sound"]
            print(json.dumps({"part": "streams", "by": name} | figures), flush=True)
    if "open" in parts:
        with _server(binary) as server:
            print(json.dumps({"part": "open"} | open_streams(server, opened)), flush=True)
    if "first" in parts:
        with _server(binary) as server:
            figures = first_byte.measured(server.url, requests, OUT)
            print(json.dumps({"part": "first"} | figures), flush=True)
    return 0 if sound else 1


@contextlib.contextmanager
def _server(binary: Path) -> Iterator[RedisProcess]:
    with RedisProcess(binary, {"maxclients": "15000"}) as server:
        yield server


if __name__ == "__main__":
    sys.exit(main())
