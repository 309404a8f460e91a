"""The fork server of the tests: commands whose environment a fork cannot follow get a process."""

import os
import signal
import subprocess

import pytest

from tests.support.fork_server import CELERY, ROOT, ForkedProcess, fork_server, start

pytestmark = pytest.mark.integration

ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("command", "changes", "forks"),
    [
        ([*CELERY, "-A", "a"], {"WORKER_LEASE_S": "1"}, True),
        (
            [*CELERY, "-A", "a"],
            {"REMAP_SIGTERM": "SIGQUIT"},
            False,
        ),  # read at an import
        ([*CELERY, "-A", "a"], {"CELERY_CUSTOM_WORKER_POOL": "a:b"}, False),
        ([*CELERY, "-A", "a"], {"PYTHONPATH": "/elsewhere"}, False),
        (["celery", "-A", "a"], {}, False),
    ],
)
def test_only_a_command_that_a_fork_runs_alike_is_forked(command, changes, forks):
    assert fork_server().can_run(command, ENV | changes) is forks


def test_end_and_output_of_a_fork_are_those_of_a_process():
    read, write = os.pipe()
    with os.fdopen(read) as output:
        version = start([*CELERY, "--version"], ENV, write)
        os.close(write)
        assert output.read().startswith("5.")
    assert isinstance(version, ForkedProcess)
    assert (version.wait(60), version.poll()) == (0, 0)


def test_fork_takes_signals():
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123  # os.devnull is no path of a project
        shell = start(
            [*CELERY, "-b", "redis://127.0.0.1:1/0", "events", "-d"], ENV, nothing.fileno()
        )
    with pytest.raises(subprocess.TimeoutExpired):
        shell.wait(0)
    shell.kill()
    assert shell.wait(60) == -signal.SIGKILL
