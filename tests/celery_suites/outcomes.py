"""The outcomes of a suite, compared with ``expected.toml``. The only I/O is reading."""

import enum
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ANY: Final = "any"
"""The expected outcome of a test that depends on chance."""
_OUTCOMES: Final = ("failed", "skipped", "passed")
"""From the strongest to the weakest: a test whose teardown failed has failed."""

_PASSED, _FAILED, _NOTHING_TO_RUN = 0, 1, 5  # exit codes of pytest


@dataclass(frozen=True)
class Difference:
    """One test that ends in another way than on the stock parts."""

    ours: str
    theirs: str
    reason: str


@dataclass(frozen=True)
class Outcomes:
    """How each test ended, ``passed``, ``failed`` or ``skipped``, by its pytest node ID.

    A test that began and did not end has failed: it is in ``unfinished``, too.
    """

    by_test: Mapping[str, str]
    unfinished: frozenset[str]


def outcomes_of(record: Iterable[str]) -> Outcomes:
    """Read the record of one pytest process: lines of an event, a space, and a node ID.

    Events are ``started``, an outcome of one phase or subtest, and ``finished``.
    """
    phases: dict[str, set[str]] = {}
    unfinished = set()
    for line in record:
        event, test = line.rstrip("\n").split(" ", 1)
        if event == "started":
            phases[test] = set()
            unfinished.add(test)
        elif event == "finished":
            unfinished.discard(test)
        else:
            phases[test].add(event)
    by_test = {
        test: "failed"
        if test in unfinished
        else next((each for each in _OUTCOMES if each in found), "failed")
        for test, found in phases.items()
    }
    return Outcomes(by_test, frozenset(unfinished))


class Next(enum.Enum):
    """The step after a pytest process."""

    END = enum.auto()
    RESUME = enum.auto()
    """Another process, for the tests that this one did not reach."""
    BROKEN = enum.auto()
    """Another process would reach no test either."""


def after(code: int, outcomes: Outcomes) -> Next:
    """Decide what follows a pytest process that exited with ``code``.

    The limit of a step exits with 1, as pytest does after a failed test.
    """
    orderly = code in {_PASSED, _NOTHING_TO_RUN} or (
        code == _FAILED and "failed" in outcomes.by_test.values()
    )
    if orderly and not outcomes.unfinished:
        return Next.END
    return Next.RESUME if outcomes.by_test else Next.BROKEN


def expected_differences(path: Path, suite: str) -> dict[str, Difference]:
    """Read the differences that are known, each with its reason."""
    tables = tomllib.loads(path.read_text()).get(suite, {})
    return {name: Difference(**entry) for name, entry in tables.items()}


def figures(found: Mapping[str, str]) -> str:
    """Return the counts of one part on one variant, as in ``108 of 109 passed, 1 failed``."""
    counts = {kind: list(found.values()).count(kind) for kind in _OUTCOMES}
    others = [f"{counts[kind]} {kind}" for kind in ("failed", "skipped") if counts[kind]]
    return ", ".join([f"{counts['passed']} of {len(found)} passed", *others])


def complaints(
    ours: Mapping[str, str], theirs: Mapping[str, str], expected: Mapping[str, Difference]
) -> list[str]:
    """Return a line for each unexpected difference, and for each expected one that is gone."""
    lines = []
    for name in sorted(ours.keys() | theirs.keys() | expected.keys()):
        found = ours.get(name, "missing"), theirs.get(name, "missing")
        known = expected.get(name)
        detail = f"{name}: {found[0]} on ours, {found[1]} on theirs"
        if known is None and found[0] != found[1]:
            lines.append(f"{detail}, and no reason is known")
        elif known is not None and not (
            known.ours in {found[0], ANY} and known.theirs in {found[1], ANY}
        ):
            lines.append(f"{detail}, expected {known.ours} and {known.theirs}")
    return lines
