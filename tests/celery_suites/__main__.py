"""Run Celery's integration suite and kombu's Redis tests on our parts, beside the stock ones.

    python -m tests.celery_suites [celery] [kombu] [-k EXPRESSION]

The suites come from the sdists of the locked versions. Their environment is ``.suites/env``.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import redis

from berlin_worker.embedded.redis import RedisProcess, find_server
from tests.celery_suites.outcomes import complaints, expected_differences, outcomes_of

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
PLACE: Final = ROOT / ".suites"
PYTHON: Final = PLACE / "env" / "bin" / "python"

# Not here: tests of other backends, of beat and of Django, which have no pool and no Redis queue.
CELERY_TESTS: Final = [
    f"t/integration/test_{name}.py"
    for name in (
        "canvas", "tasks", "group_chains", "redis_backend", "connection_recovery",
        "serialization", "request_backend_down", "inspect", "loader", "logfile_format",
    )
]  # fmt: skip
KOMBU_TESTS: Final = ["t/unit/transport/test_redis.py", "t/unit/transport/virtual"]


def main() -> int:
    """Return 0 if each difference is expected."""
    parser = argparse.ArgumentParser(prog="python -m tests.celery_suites", description=__doc__)
    parser.add_argument("suites", nargs="*", choices=["celery", "kombu", []], metavar="SUITE")
    parser.add_argument("-k", dest="expression", default="", help="as pytest's: no comparison")
    options = parser.parse_args()
    install()
    wrong = []
    for suite in options.suites or ("celery", "kombu"):
        source = unpacked(suite)
        others = {"celery": "threads", "kombu": "stock"}[suite]
        with ThreadPoolExecutor() as executor:
            runs = [
                executor.submit(run, suite, source, variant, options.expression)
                for variant in ("ours", others)
            ]
        ours, theirs = (outcomes_of(each.result()) for each in runs)
        for name, found in ((f"{suite}, ours", ours), (f"{suite}, {others}", theirs)):
            counts = {each: list(found.values()).count(each) for each in sorted({*found.values()})}
            print(f"{name}: {counts}")
        expected = expected_differences(HERE / "expected.toml", suite)
        if options.expression:
            expected = {name: known for name, known in expected.items() if name in ours}
        wrong += complaints(ours, theirs, expected)
    print("\n".join(wrong) or "every difference is expected")
    return bool(wrong)


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


def run(suite: str, source: Path, variant: str, expression: str) -> Path:
    """Run a suite on one variant, with a Redis of its own; return the JUnit report."""
    report, log = PLACE / f"{suite}-{variant}.xml", PLACE / f"{suite}-{variant}.log"
    server = find_server()
    assert server is not None, "no redis-server and no valkey-server: install one"
    tests = CELERY_TESTS if suite == "celery" else KOMBU_TESTS
    with RedisProcess(server) as process, log.open("w") as output:
        with redis.Redis.from_url(process.url) as client:
            client.flushall()
        env = {
            **os.environ,
            "SUITE_VARIANT": variant,
            "TEST_BROKER": process.url,
            "TEST_BACKEND": process.url,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(client.connection_pool.connection_kwargs["port"]),
            "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "worker", ROOT / "schemas"))),
        }
        subprocess.run(
            [PYTHON, "-m", "pytest", "-p", "tests.celery_suites.plugin", "-p", "no:randomly",
             "-p", "no:asyncio", "--timeout", "120", "--junitxml", report, "-q",
             *(["-k", expression] if expression else []), *tests],
            cwd=source, env=env, stdout=output, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    assert report.is_file(), f"pytest wrote no report: see {log}"
    return report


if __name__ == "__main__":
    sys.exit(main())
