"""What the demo runs on: a Redis, a stand-in upstream, and a real worker; gone at its end."""

import contextlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from berlin_schemas import names
from berlin_worker.cli.errors import Problem
from berlin_worker.cli.interrupts import SIGNALS, deferred
from berlin_worker.cli.preflight import open_redis, redis_problem
from berlin_worker.embedded.redis_server import any_redis
from berlin_worker.embedded.upstream import Upstream, upstream_in_thread
from berlin_worker.settings import Settings

_START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 3.0
_CHUNK_DELAY_S: Final = 0.02
_WATCH_S: Final = 0.5
_REDIS_PATIENCE_S: Final = 2.0
"""A Redis of the user's may restart meanwhile: the worker comes through that."""
_SHOWN_LOG_LINES: Final = 15


@dataclass(frozen=True, slots=True)
class Setup:
    """What is running."""

    settings: Settings
    redis: str
    """One line that says which Redis it is."""
    upstream: Upstream
    worker: "subprocess.Popen[bytes]"

    @property
    def exports(self) -> list[str]:
        """The lines by which another shell uses the setup."""
        env = {"REDIS_URL": self.settings.redis_url, **self.upstream.environ}
        return [f"export {name}={shlex.quote(value)}" for name, value in env.items()]

    def watch(self) -> str:
        """Wait until the worker or Redis has ended, and return one line that names it.

        Redis counts as ended once it has answered no question for ``_REDIS_PATIENCE_S``.
        """
        answered = time.monotonic()
        while self.worker.poll() is None:
            problem = redis_problem(self.settings.redis_url)
            if problem is None:
                answered = time.monotonic()
            elif time.monotonic() - answered > _REDIS_PATIENCE_S:
                return problem
            time.sleep(_WATCH_S)
        return "the worker has ended"


@contextlib.contextmanager
def demo_redis(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """``REDIS_URL`` where it is set, else one of our own: its URL, and what it is.

    Raises :class:`Problem` for a Redis in use: the demo's worker would take other people's jobs
    and answer them with its stand-in, and their workers the demo's.
    """
    if url := environ.get("REDIS_URL"):
        if told := redis_problem(url):
            raise Problem(told, advice="unset REDIS_URL, and the demo starts one of its own")
        with open_redis(url) as redis:
            counts: Any = redis.pubsub_numsub(names.CONTROL_CHANNEL)
            busy = counts[0][1] or redis.llen(names.QUEUE) or redis.zcard(names.DUE_JOBS)
        if busy:
            raise Problem(
                "the Redis at REDIS_URL has workers or jobs, which the demo would mix with",
                advice="unset REDIS_URL, and the demo starts one of its own",
            )
        yield url, "yours, at REDIS_URL"
    else:
        with contextlib.ExitStack() as stack:
            with deferred():
                started = stack.enter_context(any_redis())
            yield started


@contextlib.contextmanager
def demo_setup(url: str, told: str, environ: Mapping[str, str]) -> Iterator[Setup]:
    """Start upstream and worker; both are gone at the end, whatever ends it."""
    with upstream_in_thread(chunk_delay_s=_CHUNK_DELAY_S) as upstream:
        # Settings that are meant for a real upstream or broker have no place here.
        env = {
            name: value
            for name, value in environ.items()
            if not name.startswith(("BERLIN_", "CELERY_", "WORKER_"))
        }
        env |= {"REDIS_URL": url, "WORKER_DRAIN_TIMEOUT_S": "1", "WORKER_LOG_FORMAT": "console"}
        env |= upstream.environ
        with _worker(env) as process:
            yield Setup(Settings.from_env(env), told, upstream, process)


@contextlib.contextmanager
def _worker(env: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "celery", "-A", "berlin_worker", "worker", "--loglevel=INFO"]
    command += ["--without-mingle", "--without-gossip", "--hostname=demo@%h"]
    with tempfile.TemporaryDirectory(prefix="berlin-demo-") as home:
        log = Path(home, "worker.log")
        process = None
        try:
            with log.open("wb") as out, deferred():
                process = subprocess.Popen(
                    command,
                    env=env,
                    cwd=home,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    # Ctrl-C is for the demo, which then ends the worker itself.
                    start_new_session=True,
                )
            _wait_until_ready(process, log)
            yield process
        finally:
            if process is not None:
                _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + _START_TIMEOUT_S
    while " ready." not in (told := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > give_up:
            last = told.strip().splitlines()[-_SHOWN_LOG_LINES:]
            raise Problem("the worker did not start; its last words:\n" + "\n".join(last))
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must leave nothing behind
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    process.kill()
    process.wait()
