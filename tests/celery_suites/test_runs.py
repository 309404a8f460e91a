"""A part of a suite comes to its end, even if its tests hang or crash."""

import sys
import textwrap
from pathlib import Path

import pytest

from berlin_worker.embedded.redis_server import find_server
from tests.celery_suites.parts import Part
from tests.celery_suites.runs import Run, ended

pytestmark = pytest.mark.integration

TESTS = """
import os
import pathlib
import signal
import threading

import pytest


def first_time(name):
    place = pathlib.Path(name)
    seen = place.exists()
    place.touch()
    return not seen


@pytest.fixture
def hangs_the_first_time():
    yield
    if first_time("hung"):
        threading.Event().wait()


def test_passes():
    pass


def test_fails_and_hangs_in_its_teardown(hangs_the_first_time):
    assert pathlib.Path("hung").exists()


def test_kills_its_process():
    os.kill(os.getpid(), signal.SIGKILL)


def test_fails_the_first_time():
    assert not first_time("failed")


def test_last():
    pass
"""


def test_hanging_and_crashing_tests_fail_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # To load the plugins of this environment would double the time of each process.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "test_them.py").write_text(textwrap.dedent(TESTS))
    server = find_server()
    assert server is not None
    run = Run(
        Part("kombu", "them", ["test_them.py"]),
        "stock",
        tmp_path,
        server,
        Path(sys.executable),
        files=tmp_path,
        step_limit_s=15,
    )
    result = ended(run)
    assert result.by_test == {
        "test_them.py::test_passes": "passed",
        "test_them.py::test_fails_and_hangs_in_its_teardown": "passed",  # when run again
        "test_them.py::test_kills_its_process": "failed",
        "test_them.py::test_fails_the_first_time": "passed",
        "test_them.py::test_last": "passed",
    }
    assert result.incomplete == ""
    hung, *killed = result.hung
    assert hung.startswith("test_them.py::test_fails_and_hangs_in_its_teardown did not end within")
    assert len(killed) == 2  # run again, it ends its process again
    [stacks] = [
        text for file in tmp_path.glob("*.log") if "Timeout (" in (text := file.read_text())
    ]
    assert "hangs_the_first_time" in stacks
