"""SIGHUP: the process runs its command line again, and no stream is lost."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import pytest

from tests.support.checker import text_of
from tests.support.fleet import Fleet, prompt
from tests.support.workers import ROOT, WorkerProcess, wait_until

pytestmark = pytest.mark.integration

QUICK = ["-c", "2", "--without-mingle", "--without-gossip", "-l", "info"]
BIN = Path(sys.executable).parent


def worker_by(fleet: Fleet, *command: str, **env: str) -> WorkerProcess:
    """A worker that is started by ``command``, not by ``python -m celery``."""
    worker = fleet.worker(fork=False, **env)
    worker._command = [*command, *QUICK, *worker._command[-1:]]
    return worker


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "celery", "-A", "berlin_worker", "worker"],
        [str(BIN / "celery"), "-A", "berlin_worker", "worker"],
        [str(BIN / "berlin"), "worker"],
    ],
    ids=["python -m celery", "celery", "berlin worker"],
)
def test_stream_in_flight_at_a_restart_ends_once(fleet: Fleet, command: list[str]):
    with worker_by(fleet, *command, WORKER_DRAIN_TIMEOUT_S="0.1") as worker:
        pid = worker.process.pid
        job = fleet.send(prompt("[[stall:2*1]] a b c d"))
        fleet.running(job)
        worker.send_signal(signal.SIGHUP)
        worker.wait_for_log(" ready.", times=2)
        events = fleet.ended(job)
        assert text_of(events) == "echo of [[stall:2*1]] a b c d"
        assert [event["type"] for event in events].count("completed") == 1
        assert fleet.attempt(job) == 2
        # Again, as soon as the first restart is over.
        worker.send_signal(signal.SIGHUP)
        worker.wait_for_log(" ready.", times=3)
        assert text_of(fleet.ended(fleet.send(prompt("after")))) == "echo of after"
        assert worker.process.pid == pid
        assert worker.stop() == 0
        assert "Traceback" not in worker.log


def test_second_sighup_in_the_drain_restarts_once(fleet: Fleet):
    with fleet.worker("-c", "2", WORKER_DRAIN_TIMEOUT_S="60") as worker:
        job = fleet.send(prompt("[[stall:2]] a b c d", deadline_s=5))
        fleet.running(job)
        for _ in range(3):
            worker.send_signal(signal.SIGHUP)
            worker.wait_for_log("Restart (SIGHUP)")
        assert fleet.ended(job)[-1]["error"]["code"] == "deadline_exceeded"  # the drain was whole
        worker.wait_for_log(" ready.", times=2)
        fleet.ended(fleet.send(prompt("after")))
        assert worker.log.count("Restart (SIGHUP)") == 1
        assert worker.log.count(" ready.") == 2


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM])
def test_sigterm_beside_a_sighup_ends_the_worker(fleet: Fleet, first: signal.Signals):
    second = {signal.SIGHUP: signal.SIGTERM, signal.SIGTERM: signal.SIGHUP}[first]
    with fleet.worker("-c", "2", WORKER_DRAIN_TIMEOUT_S="60") as worker:
        job = fleet.send(prompt("[[stall:2]] a b c d", deadline_s=4))
        fleet.running(job)
        worker.send_signal(first)
        worker.wait_for_log("Restart" if first is signal.SIGHUP else "Warm shutdown")
        worker.send_signal(second)
        assert worker.wait() == 0
        assert worker.log.count(" ready.") == 1
    fleet.ended(job)


@contextmanager
def terminal() -> Iterator[tuple[FileIO, FileIO]]:
    """Open both ends of a terminal; either may be closed before the end of the block.

    Files, not descriptors: to close a descriptor twice closes whatever has its number by then.
    """
    ours, theirs = pty.openpty()
    with FileIO(ours, "r+") as controller, FileIO(theirs, "r+") as terminal:
        yield controller, terminal


def test_worker_with_a_terminal_restarts_and_ends_when_the_terminal_is_closed(fleet: Fleet):
    with terminal() as (ours, theirs):
        command = [sys.executable, "-m", "celery", "-A", "berlin_worker", "worker", *QUICK]
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT), **fleet.env}, cwd=ROOT,
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # one system call
        )  # fmt: skip
        theirs.close()
        shown: list[bytes] = []
        closing = threading.Event()

        def read() -> None:
            with suppress(OSError):
                while not closing.is_set() and (some := ours.read(4096)):
                    shown.append(some)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            wait_until(lambda: b" ready." in b"".join(shown), "the worker")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: b"".join(shown).count(b" ready.") == 2, "the worker once more")
            closing.set()
            fleet.ended(fleet.send(prompt("x")))  # something to read, so that the reader ends
            reader.join()
            ours.close()
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
