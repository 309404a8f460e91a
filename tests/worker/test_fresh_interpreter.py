"""What a fresh interpreter loads and prints."""

import subprocess
import sys

import pytest

from berlin_worker.settings import table

pytestmark = pytest.mark.integration


def test_table_of_settings_prints_from_the_command_line() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "berlin_worker.settings"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert printed.stdout == table() + "\n"
    assert not printed.stderr


def test_running_a_job_imports_no_opentelemetry() -> None:
    # redis-py does where it is installed, so not a whole worker.
    probe = (
        "import sys, berlin_worker.jobs.runner, berlin_worker.telemetry.tracing as tracing\n"
        "assert tracing.inject() == {}\n"
        "print('loaded:', [name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    output = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    ).stdout
    assert "loaded: []" in output
