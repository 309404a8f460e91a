"""The fork server of the tests: a fork is a process of its own, like a new interpreter."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.fork_server import ROOT, PythonProcess, can_fork, run_python

pytestmark = pytest.mark.integration

ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
CELERY = [sys.executable, "-m", "celery"]


@pytest.mark.parametrize(
    ("command", "changes", "forks"),
    [
        (CELERY, {"WORKER_LEASE_S": "1"}, True),
        ([sys.executable, "-W", "ignore", "-m", "celery"], {}, True),
        ([sys.executable, "-c", "pass"], {}, True),
        ([sys.executable, "-W", "error", "-m", "celery"], {}, False),
        (CELERY, {"REMAP_SIGTERM": "SIGQUIT"}, False),
        (CELERY, {"CELERY_CUSTOM_WORKER_POOL": "a:b"}, False),
        (CELERY, {"PYTHONPATH": "/elsewhere"}, False),
        (["celery", "-A", "a"], {}, False),
    ],
)
def test_only_a_command_that_behaves_alike_in_a_fork_is_forked(
    command: list[str], changes: dict[str, str], forks: bool
) -> None:
    assert can_fork(command, ENV | changes) is forks


def test_end_and_output_of_a_fork_are_those_of_a_process() -> None:
    program = "import os, sys; print(os.environ['MARK'], sys.argv[1:]); sys.exit(3)"
    done = run_python(["-c", program, "a b"], env=ENV | {"MARK": "seen"}, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "seen ['a b']\n", "")
    quiet = ["-W", "ignore", "-c", "import warnings; warnings.warn('loud')"]
    assert run_python(quiet, env=ENV, timeout=60).stderr == ""


@pytest.mark.parametrize("group", [None, 0])
def test_fork_takes_signals_in_the_group_that_it_is_started_in(group: int | None) -> None:
    with PythonProcess[str](
        [sys.executable, "-c", "import time; time.sleep(600)"], env=ENV, process_group=group
    ) as process:
        assert os.getpgid(process.pid) == (os.getpgid(0) if group is None else process.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
