"""``python -m celery`` in a fork of a process that has imported Celery: at a fifth of the cost.

Most of the CPU time of a test that starts a worker went into the imports of Celery. One server
for each test process imports the libraries once, and forks for each command. It imports nothing
of ours: what a module of ours reads or makes at its import, each command reads and makes anew.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import coverage

ROOT = Path(__file__).resolve().parents[2]

_PRELOADED = (
    *("celery.bin.celery", "celery.apps.worker", "celery.worker.consumer", "celery.app.amqp"),
    *("celery.app.control", "celery.app.trace", "celery.backends.redis", "celery.events"),
    *("celery.concurrency.prefork", "celery.fixups.django", "celery.worker.strategy"),
    *("kombu.transport.redis", "redis.asyncio", "aiohttp", "pydantic"),
)
_READ_LATE = (
    *("REDIS_URL", "BERLIN_", "WORKER_", "SAMPLE_", "PYTEST_", "OTEL_"),
    *("CELERY_BROKER_", "CELERY_RESULT_BACKEND", "CELERY_WORKER_"),
)
"""Names of variables that no preloaded module reads at its import."""
CELERY = [sys.executable, "-m", "celery"]
QUIET_CELERY = [sys.executable, "-W", "ignore", "-m", "celery"]
"""Without the warnings, such as Celery's to the superuser."""
_COVERAGE = "COVERAGE_PROCESS_CONFIG"


class ForkServer:
    """The server of this test process, which ends when its end of the connection closes."""

    def __init__(self) -> None:
        self._env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._requests, requests = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", str(requests.fileno())],
            # Each command starts its own measurement; one of the imports alone would be in vain.
            env={name: self._env[name] for name in self._env.keys() - {_COVERAGE}},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[requests.fileno()],
        )
        requests.close()
        atexit.register(self.close)

    def can_run(self, command: list[str], env: Mapping[str, str]) -> bool:
        """Return whether a fork does the same as ``command`` in a process of its own."""
        names = self._env.keys() | env.keys()
        changed = {name for name in names if self._env.get(name) != env.get(name)}
        known = command[:3] == CELERY or command[:5] == QUIET_CELERY
        return known and all(name.startswith(_READ_LATE) for name in changed)

    def run(self, command: list[str], env: Mapping[str, str], output: int) -> "ForkedProcess":
        """Start ``command``; ``output`` is the file that takes its stdout and stderr."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(self._requests, [b"."], [theirs.fileno(), output])
            ours.sendall(json.dumps({"command": command, "env": dict(env)}).encode())
            ours.shutdown(socket.SHUT_WR)
            return ForkedProcess(ours.makefile())

    def close(self) -> None:
        """End the server; its commands go on."""
        self._requests.close()
        self._process.wait()


@functools.cache
def fork_server() -> ForkServer:
    """Return the server of this process, which the first call starts."""
    return ForkServer()


def start(
    command: list[str], env: Mapping[str, str], output: int, *, fork: bool = True
) -> "subprocess.Popen[bytes] | ForkedProcess":
    """Start ``command``, in a fork if that does the same; ``output`` takes stdout and stderr."""
    if fork and fork_server().can_run(command, env):
        return fork_server().run(command, env, output)
    return subprocess.Popen(
        command, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
    )


class ForkedProcess:
    """A command in a fork of the server; the part of ``subprocess.Popen`` that the tests use."""

    def __init__(self, status: IO[str]) -> None:
        self._status = status
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or ``None`` while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _serve(requests: socket.socket) -> None:
    """Fork for each request; returns in the process that is to run the command, and nowhere else.

    Between the server and the command stands a process that waits for the command's end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        request, files, *_ = socket.recv_fds(requests, 1, 2)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not request:
            os._exit(0)
        if os.fork() == 0:
            break
        for each in files:
            os.close(each)
    requests.close()
    status, output = socket.socket(fileno=files[0]), files[1]
    with status.makefile() as text:
        command = json.load(text)
    if pid := os.fork():
        os.close(output)
        status.sendall(b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(OSError):  # the test has ended
            status.sendall(b"%d\n" % code)
        os._exit(0)
    status.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.environ.clear()
    os.environ.update(command["env"])
    time.tzset()
    sys.orig_argv = command["command"]
    sys.argv = sys.orig_argv[sys.orig_argv.index("-m") + 1 :]
    if sys.orig_argv[:5] == QUIET_CELERY:
        warnings.simplefilter("ignore")
    if _COVERAGE in os.environ:
        coverage.process_startup(force=True)


if __name__ == "__main__":
    for _name in _PRELOADED:
        importlib.import_module(_name)
    gc.freeze()  # a collection in a fork would copy the page of every object that it looks at
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
