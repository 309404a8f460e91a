"""Run Celery's integration suite and kombu's Redis tests on our parts, beside the stock ones.

    python -m tests.celery_suites [celery] [kombu] [PART...] [-k EXPRESSION] [--beside VARIANT]

The suites come from the sdists of the locked versions. Their environment is ``.suites/env``.
Each part of a suite runs on ours and on the stock parts, each time with a Redis of its own. All
parts run at once: they mostly wait. A failed test runs once more by itself, since the suites count
seconds.
"""

import argparse
import os
import signal
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from berlin_worker.embedded.redis_server import find_server
from tests.celery_suites.outcomes import complaints, expected_differences, figures
from tests.celery_suites.parts import PARTS
from tests.celery_suites.programs import HERE, PYTHON, clean_up, install, locked, mortal, unpacked
from tests.celery_suites.runs import Result, Run, ended

BESIDE: Final = {"celery": "threads", "kombu": "stock"}


def main() -> int:
    """Return 0 if each difference is expected and each part has ended."""
    names = sorted({part.suite for part in PARTS} | {part.name for part in PARTS})
    parser = argparse.ArgumentParser(prog="python -m tests.celery_suites", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("-k", dest="expression", default="", help="as pytest's")
    parser.add_argument("--beside", choices=["threads", "prefork"], help="Celery's pool")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(names)}")
    beside = BESIDE | ({"celery": options.beside} if options.beside else {})
    chosen = [
        part for part in PARTS if not options.names or {part.suite, part.name} & set(options.names)
    ]
    install()
    sources = {suite: unpacked(suite) for suite in {part.suite for part in chosen}}
    clean_up()
    server = find_server()
    assert server is not None, "no redis-server and no valkey-server: install one"
    for number in (signal.SIGINT, signal.SIGTERM):
        # Exit at once: an ordinary exit would wait for the threads below.
        signal.signal(number, lambda *_: os._exit(1))
    selection = ["-k", options.expression] if options.expression else []
    runs = [
        Run(part, variant, sources[part.suite], mortal(server), mortal(PYTHON), selection)
        for part in chosen
        for variant in ("ours", beside[part.suite])
    ]
    results = []
    with ThreadPoolExecutor(len(runs)) as executor:
        for result in executor.map(ended, runs):
            results.append(result)
            print_result(result)
    whole = not selection and {part.name for part in PARTS if part.suite in sources} == {
        part.name for part in chosen
    }
    wrong = [line for suite in sources for line in differences(suite, results, whole=whole)]
    wrong += [result.incomplete for result in results if result.incomplete]
    print("\n".join(wrong) or "every difference is expected")
    return bool(wrong)


def print_result(result: Result) -> None:
    """Print the figures of a part on one variant."""
    part = result.run.part
    print(
        f"{part.suite} {locked(part.suite)}, {part.name}, {result.run.variant}: "
        f"{figures(result.by_test)} ({result.duration_s:.0f} s)"
    )
    print("".join(f"  {line}\n" for line in result.hung), end="", flush=True)


def differences(suite: str, results: Collection[Result], *, whole: bool) -> list[str]:
    """Return a line for each difference of a suite that ``expected.toml`` does not have.

    If a part of the suite ran, not the ``whole``, tests that did not run make no difference.
    """
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    for result in results:
        if result.run.part.suite == suite:
            (ours if result.run.variant == "ours" else theirs).update(result.by_test)
    expected = expected_differences(HERE / "expected.toml", suite)
    if not whole:
        expected = {name: each for name, each in expected.items() if name in {*ours, *theirs}}
    return complaints(ours, theirs, expected)


if __name__ == "__main__":
    sys.exit(main())
