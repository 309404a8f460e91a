"""Run one part of a suite on one variant to its end, even if its tests hang or crash."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from berlin_worker.embedded.redis_server import RedisProcess
from tests.celery_suites.outcomes import Next, after, outcomes_of
from tests.celery_suites.parts import Part
from tests.celery_suites.programs import PLACE, PYTHON, ROOT

LIMIT_S: Final = 1500
"""After this time only the tests of a part that have ended count."""


@dataclass(frozen=True)
class Run:
    """A part on one variant: the folder of its sdist, and the programs that it runs with."""

    part: Part
    variant: str
    source: Path
    server: Path
    python: Path
    selection: Sequence[str] = ()
    """Further arguments of pytest."""
    files: Path = PLACE
    """Folder of logs and records."""
    step_limit_s: float = 240
    """Limit of the setup, the call and the teardown of a test. The longest takes 150 s."""

    @property
    def name(self) -> str:
        """Name of the files that it writes."""
        return f"{self.part.suite}-{self.part.name}-{self.variant}"


@dataclass
class Result:
    """How each test of a part ended on one variant."""

    run: Run
    by_test: dict[str, str] = field(default_factory=dict)
    hung: list[str] = field(default_factory=list)
    """A line for each test that ended its process; it counts as failed."""
    incomplete: str = ""
    """Why tests are missing, or an empty string."""
    processes: int = 0
    duration_s: float = 0.0


def ended(run: Run) -> Result:
    """Run a part on one variant, then each failed test once more in a process of its own.

    A test that hangs or crashes ends its process. The tests after it run in another one.
    """
    result = Result(run)
    begin = time.monotonic()
    _processes(result, begin + LIMIT_S, set())
    for test in [test for test, kind in result.by_test.items() if kind == "failed"]:
        _processes(result, begin + LIMIT_S, set(result.by_test) - {test})
    result.duration_s = time.monotonic() - begin
    return result


def _processes(result: Result, end: float, left_out: set[str]) -> None:
    """Run pytest until each test that is not ``left_out`` has ended."""
    run = result.run
    while not result.incomplete:
        result.processes += 1
        files = run.files / f"{run.name}-{result.processes}"
        code = pytest_once(run, files, left_out, end - time.monotonic())
        record = files.with_suffix(".record")
        outcomes = outcomes_of(record.read_text().splitlines() if record.exists() else ())
        result.by_test |= outcomes.by_test
        left_out |= outcomes.by_test.keys()
        log = files.with_suffix(".log")
        if code is None:
            result.incomplete = f"{run.name}: not at its end after {LIMIT_S} s, see {log}"
            return
        result.hung += [
            f"{test} did not end within {run.step_limit_s} s, or ended its process: see {log}"
            for test in outcomes.unfinished
        ]
        match after(code, outcomes):
            case Next.END:
                return
            case Next.BROKEN:
                result.incomplete = f"{run.name}: pytest ended with {code} before a test, see {log}"


def pytest_once(run: Run, files: Path, left_out: set[str], limit_s: float) -> int | None:
    """Run pytest with a Redis of its own; return its exit code, or ``None`` at the limit.

    It writes ``files`` with the suffixes ``.log`` and ``.record``; see ``outcomes_of``.
    """
    files.with_suffix(".leftout").write_text("\n".join(left_out))
    with (
        RedisProcess(run.server) as server,
        files.with_suffix(".log").open("w") as output,
    ):
        env = {
            **os.environ,
            "SUITE_VARIANT": run.variant,
            "SUITE_RECORD": str(files.with_suffix(".record")),
            "SUITE_STEP_LIMIT_S": str(run.step_limit_s),
            "SUITE_LEFT_OUT": str(files.with_suffix(".leftout")),
            # As in the CI of Celery: tests of log lines require it.
            "WORKER_LOGLEVEL": "INFO",
            "TEST_BROKER": server.url,
            "TEST_BACKEND": server.url,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(server.port),
            "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "worker", ROOT / "schemas"))),
        }
        arguments = [
            "-p", "tests.celery_suites.plugin", "-p", "celery.contrib.pytest",
            "-p", "no:randomly", "-p", "no:asyncio", "-p", "no:timeout", "-p", "no:cacheprovider",
            "-q", "--tb", "native", "--durations", "20", *run.selection,
            *(f"--deselect={other}" for other in run.part.others), *run.part.tests,
        ]  # fmt: skip
        try:
            return subprocess.run(
                [run.python, "-m", "pytest", *arguments], cwd=run.source, env=env, stdout=output,
                stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=limit_s, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return None
