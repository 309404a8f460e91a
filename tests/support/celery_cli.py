"""Commands of ``celery -A berlin_worker``: exit code and all output."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from tests.support.fork_server import run_python
from tests.support.workers import ROOT, TIMEOUT_S


def run_command(options: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Run one command; ``env`` holds the variables beside those of the tests."""
    done = run_python(
        # Without the warnings, such as Celery's to the superuser.
        ["-W", "ignore", "-m", "celery", "-A", "berlin_worker", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        cwd=ROOT,
        timeout=TIMEOUT_S,
        stderr=subprocess.STDOUT,
        errors="replace",
    )
    return done.returncode, done.stdout
