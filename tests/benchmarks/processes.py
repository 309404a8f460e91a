"""The processes around a run: started, listened to, and gone with their context."""

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from berlin_worker.embedded.redis_server import RedisProcess
from tests.benchmarks import measure
from tests.benchmarks.fleet import ROOT
from tests.benchmarks.upstream import prompt

START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0


class Failed(Exception):
    """A run gave no figures; the message has the reason."""


@contextlib.contextmanager
def process(
    command: list[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    log: IO[str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a process with its standard input open; its output goes to ``log``, if given."""
    started = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=log or subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,  # its children end with it
    )
    try:
        yield started
    finally:
        _end(started)


def _end(started: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        started.terminate()
    try:
        started.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
    # The process leads a session of its own, so the signal reaches its children and no other.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    for stream in (started.stdin, started.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class Output:
    """The JSON lines that a process prints, as they come."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(ValueError):  # closed meanwhile
            for line in self._stream:
                self._lines.put(json.loads(line))
        self._lines.put(None)

    def wait_for(self, key: str, timeout_s: float = START_TIMEOUT_S) -> Any:
        """Return the value of the next line with ``key``; raises ``Failed`` if none comes."""
        give_up = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(give_up - time.monotonic(), 0.001))
            except queue.Empty:
                raise Failed(f"no {key!r} within {timeout_s:.0f} s") from None
            if line is None:
                raise Failed(f"the subscriber ended before {key!r}")
            if key in line:
                return line[key]


class Subscriber:
    """The process that receives the events of every job (:mod:`tests.benchmarks.subscriber`)."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        assert running.stdout is not None
        self.pid = running.pid
        self._running = running
        self._output = Output(running.stdout)
        self.wait_for = self._output.wait_for

    @classmethod
    @contextlib.contextmanager
    def listening(cls, port: int, jobs: int, *, tell: bool = False) -> Iterator[Self]:
        """Yield a subscriber once the server has confirmed its subscription."""
        options = ["--tell"] if tell else []
        command = [sys.executable, "-m", "tests.benchmarks.subscriber", str(port), str(jobs)]
        with process([*command, *options], cwd=ROOT) as running:
            subscriber = cls(running)
            subscriber.wait_for("ready")
            yield subscriber

    def chunks_so_far(self) -> int:
        """Return the number of chunks that it has received."""
        self._running.send_signal(signal.SIGUSR1)
        chunks: int = self.wait_for("mark")
        return chunks

    def give_up(self, timeout_s: float) -> dict[str, Any]:
        """Return the result; if the jobs do not end in time, that of the events so far."""
        try:
            result: dict[str, Any] = self.wait_for("result", timeout_s)
        except Failed:
            self._running.terminate()
            result = self.wait_for("result")
        return result


@dataclass(frozen=True, slots=True)
class Bench:
    """One Redis and one upstream process, which all runs share."""

    server: RedisProcess
    upstream_pid: int
    upstream_port: int

    @classmethod
    @contextlib.contextmanager
    def started(cls, binary: Path) -> Iterator[Self]:
        """Start both; they end with the context."""
        measure.raise_open_files()
        with RedisProcess(binary, {"maxclients": "15000"}) as server:
            command = [sys.executable, "-m", "tests.benchmarks.upstream"]
            with process(command, cwd=ROOT) as upstream:
                assert upstream.stdout is not None
                yield cls(server, upstream.pid, int(upstream.stdout.readline()))

    @property
    def berlin_url(self) -> str:
        """The address of the upstream."""
        return f"http://127.0.0.1:{self.upstream_port}"

    def upstream_ms(self, calls: int = 200) -> list[float]:
        """Return the upstream's own times from request to first chunk (ms), in ascending order."""
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream_port)
        taken = []
        for _ in range(calls):
            begun = time.perf_counter()
            connection.request("POST", "/api/chat/completions", json.dumps(prompt(1, 0)))
            response = connection.getresponse()
            response.readline()
            taken.append((time.perf_counter() - begun) * 1000)
            response.read()
        connection.close()
        return sorted(taken)
