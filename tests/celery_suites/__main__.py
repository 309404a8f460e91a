"""Run Celery's integration suite and kombu's Redis tests on our parts, beside the stock ones.

    python -m tests.celery_suites [celery] [kombu] [-k EXPRESSION] [--beside VARIANT]

The suites come from the sdists of the locked versions. Their environment is ``.suites/env``.
Each part of a suite has a Redis of its own, on ours and beside it, and all parts run at once: they
wait more than they work. What fails is run once more by itself, since the suites count seconds.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from berlin_worker.embedded.redis_server import RedisProcess, find_server
from tests.celery_suites.outcomes import complaints, expected_differences, outcomes_of

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
PLACE: Final = ROOT / ".suites"
PYTHON: Final = PLACE / "env" / "bin" / "python"
BESIDE: Final = {"celery": "threads", "kombu": "stock"}
LIMIT_S: Final = 840
"""A run of a part that has not ended by then is ended."""
_AGAIN: Final = ["--last-failed", "--last-failed-no-failures", "none"]
_RAN: Final = {0, 1, 5}
"""Exit codes of pytest: passed, failed, and (of a rerun or of ``-k``) nothing to run."""


@dataclass(frozen=True)
class Part:
    """Tests of a suite that run in one process: paths, and what of them others run."""

    suite: str
    name: str
    tests: Sequence[str]
    others: Sequence[str] = ()
    not_on_threads: Sequence[str] = ()
    """Tests that are not run on ``threads``; `expected.toml` gives the reason of each."""


@dataclass(frozen=True)
class Programs:
    """The server and the interpreter that the suites run with."""

    server: Path
    python: Path


_CANVAS: Final = "t/integration/test_canvas.py"
_HALF_OF_CANVAS: Final = [
    f"{_CANVAS}::test_{name}" for name in ("link_error", "chain", "result_set", "group")
]
# Not here: tests of other backends, of beat, of Django and of upgrades, which have no pool and
# no Redis queue.
PARTS: Final = (
    Part("celery", "canvas-1", _HALF_OF_CANVAS),
    Part("celery", "canvas-2", [_CANVAS], _HALF_OF_CANVAS),
    Part(
        "celery",
        "tasks",
        ["t/integration/test_tasks.py"],
        not_on_threads=[
            "t/integration/test_tasks.py::test_class_based_tasks::test_class_based_task_retried"
        ],
    ),
    Part(
        "celery",
        "others",
        [
            f"t/integration/test_{name}.py"
            for name in (
                "group_chains", "redis_backend", "connection_recovery", "serialization",
                "request_backend_down", "inspect", "loader", "logfile_format", "worker",
                "backend_leak_in_fixture_teardown", "mem_leak_in_exception_handling",
                "events_state_memory_leak",
            )
        ],
        # Of Django, which is not installed.
        [f"t/integration/test_worker.py::test_django_fixup_{name}"
         for name in ("direct_worker", "installs_django_task_for_celery_subclass")],
    ),
    Part("kombu", "redis", ["t/unit/transport/test_redis.py", "t/unit/transport/virtual"]),
)  # fmt: skip


def main() -> int:
    """Return 0 if each difference is expected."""
    parser = argparse.ArgumentParser(prog="python -m tests.celery_suites", description=__doc__)
    parser.add_argument("suites", nargs="*", choices=["celery", "kombu", []], metavar="SUITE")
    parser.add_argument("-k", dest="expression", default="", help="as pytest's")
    parser.add_argument("--beside", choices=["threads", "prefork"], help="Celery's pool")
    options = parser.parse_args()
    beside = BESIDE | ({"celery": options.beside} if options.beside else {})
    suites = options.suites or list(BESIDE)
    install()
    sources = {suite: unpacked(suite) for suite in suites}
    clean_up()
    server = find_server()
    assert server is not None, "no redis-server and no valkey-server: install one"
    programs = Programs(mortal(server), mortal(PYTHON))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    runs = [
        (part, variant)
        for part in PARTS
        if part.suite in suites
        for variant in ("ours", beside[part.suite])
    ]
    with ThreadPoolExecutor(len(runs)) as executor:
        found = executor.map(
            lambda run: outcomes(*run, sources[run[0].suite], programs, options.expression), runs
        )
        by_variant: dict[tuple[str, str], dict[str, str]] = {}
        for (part, variant), each in zip(runs, found, strict=True):
            by_variant.setdefault((part.suite, variant), {}).update(each)
    wrong = []
    for (suite, variant), each in by_variant.items():
        counts = {kind: list(each.values()).count(kind) for kind in sorted({*each.values()})}
        print(f"{suite}, {variant}: {counts}")
        if variant == "ours":
            expected = expected_differences(HERE / "expected.toml", suite)
            if options.expression:
                expected = {name: known for name, known in expected.items() if name in each}
            wrong += complaints(each, by_variant[suite, beside[suite]], expected)
    print("\n".join(wrong) or "every difference is expected")
    return bool(wrong)


def clean_up() -> None:
    """Remove what an earlier run left, and let servers keep their data where the next looks."""
    for report in PLACE.glob("*.xml"):
        report.unlink()
    data = PLACE / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    tempfile.tempdir = str(data)


def locked(package: str) -> str:
    """Return the version of ``package`` that ``requirements-dev.lock`` names."""
    found = re.search(
        rf"^{package}==(\S+)", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE
    )
    assert found is not None, f"{package} is not locked"
    return found[1]


def install() -> None:
    """Make the environment of the suites, unless it is there as the requirements say."""
    requirements = [ROOT / "requirements-dev.lock", HERE / "requirements.txt"]
    wanted = "".join(each.read_text() for each in requirements)
    marker = PLACE / "installed"
    if marker.is_file() and marker.read_text() == wanted:
        return
    print("Installing the environment of the suites", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE / "env"], check=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", requirements[0]], check=True)
    subprocess.run([*pip, "-r", requirements[1]], check=True)
    marker.write_text(wanted)


def unpacked(package: str) -> Path:
    """Fetch and unpack the sdist of the locked version; return its folder."""
    name = f"{package}-{locked(package)}"
    if not (PLACE / name).is_dir():
        source = name.replace(f"{package}-", f"{package}==")
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
             "--no-deps", "--no-binary", ":all:", "--dest", PLACE, source],
            check=True,
        )  # fmt: skip
        with tarfile.open(PLACE / f"{name}.tar.gz") as archive:
            archive.extractall(PLACE, filter="data")
    return PLACE / name


def outcomes(
    part: Part, variant: str, source: Path, programs: Programs, expression: str
) -> dict[str, str]:
    """Run a part on one variant, and once more what failed; return how each test ended."""
    found: dict[str, str] = {}
    for again in (False, True):
        found |= outcomes_of(run(part, variant, source, programs, expression, again=again))
        if "failed" not in found.values():
            break
    return found


def run(
    part: Part, variant: str, source: Path, programs: Programs, expression: str, *, again: bool
) -> Path:
    """Run a part, or what failed of it, with a Redis of its own; return the JUnit report."""
    name = f"{part.suite}-{part.name}-{variant}"
    deselected = [*part.others, *(part.not_on_threads if variant == "threads" else ())]
    report = PLACE / f"{name}{'-again' * again}.xml"
    log = report.with_suffix(".log")
    with RedisProcess(programs.server) as process, log.open("w") as output:
        with redis.Redis.from_url(process.url) as client:
            client.flushall()
        env = {
            **os.environ,
            "SUITE_VARIANT": variant,
            "TEST_BROKER": process.url,
            "TEST_BACKEND": process.url,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(process.port),
            "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "worker", ROOT / "schemas"))),
        }
        arguments = [
            "-p", "tests.celery_suites.plugin", "-p", "no:randomly", "-p", "no:asyncio",
            "-p", "celery.contrib.pytest", "-q", "--tb", "native", "--timeout", "120",
            "--durations", "20", "--junitxml", report, "-o", f"cache_dir={PLACE / 'cache' / name}",
            *(_AGAIN if again else ["--cache-clear"]),
            *(["-k", expression] if expression else []),
            *(f"--deselect={other}" for other in deselected), *part.tests,
        ]  # fmt: skip
        try:
            ended = subprocess.run(
                [programs.python, "-m", "pytest", *arguments], cwd=source, env=env, stdout=output,
                stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=LIMIT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            sys.exit(f"{name}: not at its end after {LIMIT_S} s, see {log}")
    if ended.returncode not in _RAN or not report.is_file():
        sys.exit(f"{name}: pytest ended with {ended.returncode}, see {log}")
    return report


def mortal(program: Path) -> Path:
    """Return a program that does the same, and ends with this one even if that is killed."""
    setpriv = shutil.which("setpriv")  # of Linux
    if setpriv is None:
        return program
    wrapper = PLACE / f"mortal-{program.name}"
    wanted = f'#!/bin/sh\nexec {setpriv} --pdeathsig KILL -- {program} "$@"\n'
    if not wrapper.is_file() or wrapper.read_text() != wanted:
        wrapper.write_text(wanted)
        wrapper.chmod(0o755)
    return wrapper


if __name__ == "__main__":
    sys.exit(main())
