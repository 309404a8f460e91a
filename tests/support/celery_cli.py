"""Commands of ``celery -A berlin_worker``: exit code and all output."""

import os
import tempfile
from collections.abc import Mapping, Sequence

from tests.support.fork_server import QUIET_CELERY, start
from tests.support.workers import ROOT, TIMEOUT_S


def run_command(options: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Run one command; ``env`` holds the variables beside those of the tests."""
    command = [*QUIET_CELERY, "-A", "berlin_worker", *options]
    with tempfile.TemporaryFile() as output:
        process = start(command, {**os.environ, "PYTHONPATH": str(ROOT), **env}, output.fileno())
        try:
            code = process.wait(TIMEOUT_S)
        finally:
            process.kill()
        output.seek(0)
        return code, output.read().decode(errors="replace")
