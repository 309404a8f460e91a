"""Real Celery workers for tests: start one, wait for conditions, signal it, read its log."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.support.fork_server import PythonProcess

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0
"""How long a condition may take on a busy machine: only a failing test waits this long."""

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str = "", timeout_s: float = TIMEOUT_S) -> T:
    """Poll ``condition`` until it is true, and return its value; raises ``AssertionError``."""
    now = time.monotonic()
    give_up = now + timeout_s
    while not (value := condition()):
        began, now = now, time.monotonic()
        if now > give_up:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        # Conditions that ask for hundreds of records must not take the CPU from the workers.
        time.sleep(min(max(0.01, 4 * (now - began)), 0.2))
        now = time.monotonic()
    return value


def listens(port: int) -> bool:
    """Return whether a server accepts connections on a port of this machine.

    Wait for it before a health check that starts a process: many such processes take the CPU from
    the server that starts.
    """
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


VERBOSE = ("--loglevel", "DEBUG")
"""Arguments of a worker that logs each message that it receives."""


class WorkerProcess:
    """``celery -A <app> worker <arguments>`` in a process of its own.

    As a context manager it starts the worker and waits until it is ready; on exit it kills
    the process, and prints its log if the test failed. ``wait=False`` is for workers that must not
    start: nothing waits. With ``alone=False`` it looks for other workers, Celery's default.
    ``fork=False`` starts an interpreter of its own: see :mod:`tests.support.fork_server`.
    """

    def __init__(
        self,
        app: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        ready: str = " ready.",
        wait: bool = True,
        alone: bool = True,
        fork: bool = True,
    ) -> None:
        # Mingle and gossip cost a second of start-up and are of no use to one worker.
        quick = ("--without-mingle", "--without-gossip") if alone else ()
        self._command: list[str] = [
            *(sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "INFO", *quick),
            *(f"--hostname=w{os.getpid()}-{id(self):x}@%h", *arguments),
        ]
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        self._ready = ready
        self._wait = wait
        self._fork = fork
        self._lines: list[str] = []
        self._reader: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        """The running process."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def log(self) -> str:
        """All that the worker has printed so far."""
        return "".join(self._lines)

    @property
    def hostname(self) -> str:
        """The node name, for ``inspect`` and ``control``."""
        found = re.search(rf'w{os.getpid()}-[^"\s]+', self.log)
        assert found is not None, "the worker has not printed its name yet"
        return found[0]

    def start(self, *, wait: bool = True) -> Self:
        """Start it; raises ``AssertionError`` if it ends, or takes too long, before it is ready."""
        popen = PythonProcess[str] if self._fork else subprocess.Popen[str]
        self._process = popen(
            self._command,
            env=self.env,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if self._wait and wait:
            try:
                self.wait_for_log(self._ready)
            except AssertionError:
                self.kill()
                self._show()
                raise
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._lines.extend(self.process.stdout)
        self.process.stdout.close()

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Return when ``text`` has been logged ``times`` times."""
        wait_until(
            lambda: self.log.count(text) >= times or self.process.poll() is not None,
            f"{text!r} in the log",
        )
        if self.process.returncode is not None:
            self._join_reader()
        assert self.log.count(text) >= times, f"the worker ended without logging {text!r}"

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Return the exit code once the process has ended; raises ``AssertionError``."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker still runs after {timeout_s} s") from None
        self._join_reader()
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end; returns the exit code."""
        self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL; nothing happens if it has ended."""
        self.process.kill()
        self.process.wait()
        self._join_reader()

    def _join_reader(self) -> None:
        assert self._reader is not None
        self._reader.join(TIMEOUT_S)

    def _show(self) -> None:
        sys.stderr.write(f"--- log of {' '.join(self._command[2:])}\n{self.log}--- end of log\n")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.kill()
        if error is not None:
            self._show()
